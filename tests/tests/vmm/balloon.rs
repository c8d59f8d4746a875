//! The balloon: the host's memory really comes back.

use husk_tests::bare_bed::{Guest, Setup, Size};
use husk_vmm::control::{ClientError, Request};
use husk_vmm::process::{EXIT_DESERTED, EXIT_GUEST, EXIT_KVM};

use super::{DEADLINE, kvm_or_skip, pass, start};

fn setup(case: &str) -> Setup {
    let size = Size { balloon_mib: Some(0), memory_mib: 128, ..Size::default() };
    Setup { rng: false, size, ..Setup::new(case) }
}

/// Of the guest's memory, what the host has given: by the memory's file, and by the VMM's own
/// account, which must not say less.
fn guest_kib(guest: &Guest) -> u64 {
    let given = guest.host_kib(0);
    let told = guest.statistics().memory.expect("the kernel tells").guest_kib;
    assert!(told <= given + (1 << 10), "the VMM tells of {told} KiB, the host has given {given}");
    given
}

#[test]
fn inflated_pages_are_the_hosts_and_deflated_ones_the_guests_again() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("balloon mib=32"), kvm);
    guest.expect("filled", DEADLINE);
    let filled = guest_kib(&guest);
    guest.command(Request::BalloonTarget { mib: 32 });
    guest.expect("inflated 8192", DEADLINE);
    let inflated = guest_kib(&guest);
    assert!(filled >= 32 << 10, "{filled} KiB after all was written");
    assert!(inflated + (30 << 10) <= filled, "{inflated} KiB of {filled} after 32 MiB went");
    guest.command(Request::BalloonTarget { mib: 0 });
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn reported_pages_are_the_hosts_until_the_guest_writes() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("balloon-reporting mib=16"), kvm);
    guest.expect("filled", DEADLINE);
    let filled = guest_kib(&guest);
    guest.command(Request::BalloonTarget { mib: 1 });
    guest.expect("reported", DEADLINE);
    let reported = guest_kib(&guest);
    assert!(reported + (14 << 10) <= filled, "{reported} KiB of {filled} after 16 MiB went");
    guest.command(Request::BalloonTarget { mib: 0 });
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn pages_that_are_none_are_survived() {
    pass(&setup("balloon-malformed"));
}

#[test]
fn target_beyond_the_guests_memory_is_refused() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("hello linger=1"), kvm);
    guest.expect("PASSED", DEADLINE);
    for mib in [128, 4096, u32::MAX] {
        let answer = guest.control().command(Request::BalloonTarget { mib }, DEADLINE);
        assert!(matches!(answer, Err(ClientError::Refused { .. })), "{mib}: {answer:?}");
    }
    guest.command(Request::Stop);
}

#[test]
fn guest_that_gives_nothing_is_told_from_one_that_was_asked_for_nothing() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("hello linger=1"), kvm);
    guest.expect("PASSED", DEADLINE);
    guest.command(Request::BalloonTarget { mib: 32 });
    let number = |name| guest.counter("balloon", name);
    let names = ["target_pages", "actual_pages", "inflated_pages", "discarded_bytes"];
    assert_eq!(names.map(number), [8192, 0, 0, 0]);
    guest.command(Request::Stop);
}

/// What becomes of such a guest is its own affair: it is contained, and the VMM answers.
#[test]
fn guest_that_gives_its_own_code_away_harms_only_itself() {
    let kvm = kvm_or_skip!();
    let mut setup = setup("balloon-suicide mib=32");
    setup.size.memory_mib = 32;
    let mut guest = start(&setup, kvm);
    guest.expect("goodbye", DEADLINE);
    std::thread::sleep(std::time::Duration::from_millis(500));
    // Stuck, or ended by what it has done to itself.
    guest.desert();
    let ended = guest.finish(DEADLINE);
    let code = ended.status.and_then(|status| status.code());
    // 0: what is left of it caught an exception, and reset the machine.
    let known = [0, EXIT_GUEST, EXIT_KVM, EXIT_DESERTED].map(i32::from);
    assert!(code.is_some_and(|code| known.contains(&code)), "{ended}");
    assert!(ended.stderr.lines().count() <= 1, "{ended}");
}
