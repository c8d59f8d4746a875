//! The memory device: a machine that grows and shrinks, and no guest that takes more than it was
//! granted.

use husk_tests::bare_bed::{Guest, Setup, Size};
use husk_tests::wait::within;
use husk_vmm::control::{ClientError, Request};

use super::{DEADLINE, kvm_or_skip, pass, start};

/// Where the hot-plug region begins in the file of the guest's memory.
const MEMORY_MIB: u32 = 64;
/// The region's chunks.
const CHUNK_MIB: u32 = 128;

fn setup(case: &str) -> Setup {
    let hotplug_mib = 2 * CHUNK_MIB;
    let size = Size { memory_mib: MEMORY_MIB, hotplug_mib, ..Size::default() };
    Setup { rng: false, size, ..Setup::new(case) }
}

/// With a chunk from the start.
fn plugged(case: &str) -> Setup {
    let setup = setup(case);
    let size = Size { plugged_mib: CHUNK_MIB, ..setup.size };
    setup.sized(size)
}

fn grant(guest: &Guest, mib: u32) {
    guest.command(Request::MemTarget { mib });
}

/// Of the region, what the host has given.
fn hotplug_kib(guest: &Guest) -> u64 {
    guest.host_kib(MEMORY_MIB)
}

fn expect_kib(guest: &Guest, wanted: u64) {
    let reached = within(DEADLINE, || (hotplug_kib(guest) == wanted).then_some(()));
    assert!(reached.is_some(), "the host has given {} KiB, not {wanted}", hotplug_kib(guest));
}

#[test]
fn memory_grows_and_shrinks_as_the_host_wants() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("mem-plug"), kvm);
    grant(&guest, CHUNK_MIB);
    guest.expect("plugged", DEADLINE);
    assert_eq!(hotplug_kib(&guest), 4 * 64, "a page of each block");
    grant(&guest, 0);
    guest.expect("unplugged", DEADLINE);
    let ended = guest.finish(DEADLINE);
    ended.expect_passed();
    assert_eq!(ended.values("plugged "), [(128 << 20).to_string()]);
}

#[test]
fn requests_that_the_host_did_not_ask_for_are_refused() {
    pass(&setup("mem-refusals"));
}

#[test]
fn hostile_guest_takes_no_more_than_the_chunks_that_the_host_granted() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("mem-limit"), kvm);
    guest.expect("nothing granted", DEADLINE);
    assert_eq!(hotplug_kib(&guest), 0);
    assert!(guest.statistics().exits["unknown_mmio"] >= 256, "each touch is counted");
    grant(&guest, 2);
    guest.expect("one chunk granted", DEADLINE);
    assert_eq!(hotplug_kib(&guest), 4 * 64, "a page of each block of the chunk");
    assert_eq!(guest.host_kib(MEMORY_MIB + CHUNK_MIB), 0);
    grant(&guest, 2 * CHUNK_MIB);
    guest.expect("all granted", DEADLINE);
    assert_eq!(hotplug_kib(&guest), 4 * 128);
    grant(&guest, 0);
    guest.expect("last block kept", DEADLINE);
    expect_kib(&guest, 4 * 127);
    assert_eq!(guest.counter("mem", "usable_bytes"), u64::from(2 * CHUNK_MIB) << 20);
    grant(&guest, 2);
    guest.expect("second chunk taken", DEADLINE);
    assert_eq!(
        guest.host_kib(MEMORY_MIB + CHUNK_MIB),
        0,
        "what was touched and never plugged, too"
    );
    grant(&guest, 0);
    guest.expect("all taken", DEADLINE);
    assert_eq!(hotplug_kib(&guest), 0);
    grant(&guest, CHUNK_MIB);
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn devices_use_granted_memory_and_no_other() {
    let kvm = kvm_or_skip!();
    let guest = start(&Setup { rng: true, ..setup("mem-devices") }, kvm);
    guest.expect("nothing granted", DEADLINE);
    assert_eq!(hotplug_kib(&guest), 0);
    assert_eq!(guest.counter("entropy", "malformed"), 2);
    grant(&guest, CHUNK_MIB);
    guest.expect("rings moved", DEADLINE);
    grant(&guest, 0);
    guest.expect("taken", DEADLINE);
    assert_eq!(hotplug_kib(&guest), 0);
    grant(&guest, 2);
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn memory_that_is_there_from_the_start_is_granted_before_the_guest_runs() {
    let kvm = kvm_or_skip!();
    let guest = start(&plugged("mem-plug"), kvm);
    guest.expect("plugged", DEADLINE);
    grant(&guest, 0);
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn machine_that_is_paused_grows_and_shrinks() {
    let kvm = kvm_or_skip!();
    let guest = start(&setup("mem-plug"), kvm);
    guest.command(Request::Pause);
    for mib in [2 * CHUNK_MIB, 0, CHUNK_MIB] {
        grant(&guest, mib);
        assert_eq!(guest.counter("mem", "usable_bytes"), u64::from(mib) << 20);
    }
    guest.command(Request::Resume);
    guest.expect("plugged", DEADLINE);
    grant(&guest, 0);
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn memory_that_the_guest_keeps_is_told_from_what_was_asked_back() {
    let kvm = kvm_or_skip!();
    let guest = start(&plugged("mem-plug"), kvm);
    guest.expect("plugged", DEADLINE);
    // So that it cannot unplug anything.
    guest.command(Request::Pause);
    grant(&guest, 0);
    let names = ["requested_bytes", "plugged_bytes", "usable_bytes"];
    let numbers = || names.map(|name| guest.counter("mem", name));
    let kept = u64::from(CHUNK_MIB) << 20;
    assert_eq!(numbers(), [0, kept, kept]);
    guest.command(Request::Resume);
    guest.expect("unplugged", DEADLINE);
    guest.finish(DEADLINE).expect_passed();
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
