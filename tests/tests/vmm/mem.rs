//! The memory device: a machine that grows and shrinks.

use husk_tests::bare_bed::Setup;
use husk_vmm::control::{ClientError, Request};

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

#[test]
fn target_beyond_the_region_or_of_half_a_block_is_refused() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("hello linger=1"), kvm);
    guest.expect("PASSED", DEADLINE);
    for mib in [257, 512, 1, u32::MAX] {
        let answer = guest.control().command(Request::MemTarget { mib }, DEADLINE);
        assert!(matches!(answer, Err(ClientError::Refused { .. })), "{mib}: {answer:?}");
    }
    guest.command(Request::Stop);
}
