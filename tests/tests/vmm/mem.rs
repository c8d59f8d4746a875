//! The memory device: a machine that grows and shrinks.

use husk_tests::bare_bed::Setup;
use husk_vmm::control::Request;

use super::{DEADLINE, kvm_or_skip, pass, start};

fn setup(case: &str) -> Setup {
    Setup { rng: false, hotplug_mib: 256, ..Setup::new(case) }
}

#[test]
fn memory_grows_and_shrinks_as_the_host_wants() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("mem-plug"), kvm);
    guest.command(Request::MemTarget { mib: 128 });
    guest.expect("plugged", DEADLINE);
    let grown = guest.statistics().memory.expect("the kernel tells").guest_kib;
    guest.command(Request::MemTarget { mib: 0 });
    let ended = guest.finish(DEADLINE);
    ended.expect_passed();
    assert!(grown > 0);
    assert_eq!(ended.values("plugged "), [(128 << 20).to_string()]);
}

#[test]
fn requests_that_the_host_did_not_ask_for_are_refused() {
    pass(&setup("mem-refusals"));
}

#[test]
fn memory_that_is_not_plugged_harms_nobody() {
    pass(&setup("mem-unplugged-access"));
}
