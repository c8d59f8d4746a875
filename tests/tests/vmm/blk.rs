//! Disks: what the guest sees, and what is in the image afterwards.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use husk_tests::bare_bed::{Guest, Held, Setup};
use husk_tests::wait::{at_rest, eventually};
use husk_vmm::control::{ClientError, Request};
use husk_vmm::rate_limit::{Limit, Limits};
use husk_vmm::virtio::blk::EngineKind;

use super::{DEADLINE, folder, kvm_or_skip, pass, start};

/// The best that the host has, and what every host has.
const ENGINES: [EngineKind; 2] = [EngineKind::Auto, EngineKind::Threads];
/// More than any machine reads while a test runs.
const ENDLESS_MIB: u64 = 1 << 32;

fn disk(case: &str, folder: &tempfile::TempDir) -> Setup {
    Setup { rng: false, ..Setup::new(case) }.disk(folder, 4)
}

fn read_only(case: &str, folder: &tempfile::TempDir) -> Setup {
    let mut setup = disk(case, folder);
    setup.disks[0].read_only = true;
    setup
}

#[test]
fn disk_tells_its_size_its_serial_and_whether_it_can_be_written() {
    let folder = folder();
    let Some(ended) = pass(&disk("blk-identity", &folder)) else { return };
    assert_eq!(ended.values("sectors "), ["8192"]);
    assert_eq!(ended.values("serial "), ["disk0"]);
    assert_eq!(ended.values("read-only "), ["false"]);
    let ended = pass(&read_only("blk-identity", &folder)).unwrap();
    assert_eq!(ended.values("read-only "), ["true"]);
}

#[test]
fn what_is_written_is_read_back_and_in_the_image() {
    let folder = folder();
    let cases = ["blk-write-read", "blk-parts", "blk-interrupt", "blk-indirect"];
    for (case, engine) in cases.iter().flat_map(|case| ENGINES.map(|engine| (*case, engine))) {
        let mut setup = disk(case, &folder);
        setup.disks[0].engine = engine;
        if pass(&setup).is_none() {
            return;
        }
        if case == "blk-write-read" {
            let image = fs::read(&setup.disks[0].path).unwrap();
            let written = 229 << 10;
            assert!(image[..written].chunks(512).all(|sector| sector.iter().any(|b| *b != 0)));
            assert!(image[written..].iter().all(|byte| *byte == 0), "beyond what was written");
        }
    }
}

#[test]
fn sectors_beyond_the_end_are_refused() {
    let folder = folder();
    pass(&disk("blk-out-of-range", &folder));
}

#[test]
fn read_only_disk_stays_as_it_is() {
    let folder = folder();
    let setup = read_only("blk-read-only", &folder);
    let pattern = vec![0x42; 4 << 20];
    fs::write(&setup.disks[0].path, &pattern).unwrap();
    pass(&setup);
    assert!(fs::read(&setup.disks[0].path).unwrap() == pattern, "the image changed");
}

#[test]
fn discarded_and_zeroed_sectors_are_holes_in_the_image() {
    let folder = folder();
    let cases = ["blk-discard", "blk-write-zeroes"];
    for (case, engine) in cases.iter().flat_map(|case| ENGINES.map(|engine| (*case, engine))) {
        let mut setup = disk(case, &folder);
        setup.disks[0].engine = engine;
        if pass(&setup).is_none() {
            return;
        }
        let blocks = File::open(&setup.disks[0].path).unwrap().metadata().unwrap().blocks();
        // 128 sectors were written, 32 of them let go.
        assert!(blocks <= 128, "{case}: {blocks} blocks");
    }
}

#[test]
fn malformed_requests_are_counted_and_survived() {
    let folder = folder();
    let kvm = kvm_or_skip!();
    let guest = start(&disk("blk-malformed linger=1", &folder), kvm);
    guest.expect("PASSED", DEADLINE);
    assert!(guest.counter("block", "malformed") >= 4, "{:?}", guest.statistics().devices);
    guest.command(Request::Stop);
    assert!(guest.finish(DEADLINE).status.is_some_and(|status| status.success()));
}

#[test]
fn nothing_is_written_to_memory_after_a_reset_with_requests_in_flight() {
    for engine in ENGINES {
        let folder = folder();
        let mut setup = disk("blk-reset-in-flight", &folder);
        setup.disks[0].engine = engine;
        pass(&setup);
    }
}

/// Requests that wait for their limit are in flight for as long as a test likes.
#[test]
fn requests_that_wait_for_their_limit_are_forgotten_by_a_reset() {
    for engine in ENGINES {
        let folder = folder();
        let mut setup = disk("blk-reset-in-flight rounds=3 settle-ms=250", &folder);
        setup.disks[0].engine = engine;
        let bytes = Limit { size: 256 << 10, one_time_burst: 0, refill_ms: 100 };
        setup.disks[0].limits = Limits { bytes: Some(bytes), operations: None };
        pass(&setup);
    }
}

#[test]
fn limited_disk_still_serves_everything() {
    let folder = folder();
    let mut setup = disk("blk-write-read", &folder);
    let bytes = Limit { size: 128 << 10, one_time_burst: 0, refill_ms: 20 };
    setup.disks[0].limits = Limits { bytes: Some(bytes), operations: None };
    pass(&setup);
}

#[test]
fn many_disks_are_each_their_own() {
    let folder = folder();
    let mut setup = disk("blk-identity", &folder);
    for _ in 0..6 {
        setup = setup.disk(&folder, 1);
    }
    pass(&setup);
}

#[test]
fn limits_of_a_running_disk_can_change() {
    let kvm = kvm_or_skip!();
    let folder = folder();
    let guest = start(&disk(&format!("speed-blk-read mib={ENDLESS_MIB}"), &folder), kvm);
    let reads = |more: u64| {
        let look = || (guest.counter("block", "reads") >= more).then_some(());
        eventually("the disk is read", look);
    };
    reads(1);
    let limits = |refill_ms| Limits {
        bytes: Some(Limit { size: 128 << 10, one_time_burst: 0, refill_ms }),
        operations: None,
    };
    // A request of the guest's in an hour, then as many as ever.
    let request = |limits| Request::DiskLimits { serial: "disk0".to_owned(), limits };
    guest.command(request(limits(3_600_000)));
    let stopped = at_rest("the limited disk", || guest.counter("block", "reads"));
    assert!(guest.counter("block", "throttled") > 0);
    guest.command(request(Limits::default()));
    reads(stopped + 20);
    guest.command(Request::Stop);
    assert!(guest.finish(DEADLINE).status.is_some_and(|status| status.success()));
}

/// Reads without end, eight requests at a time, each of which leaves other bytes in memory.
fn endless_reads(engine: EngineKind, folder: &tempfile::TempDir) -> Setup {
    let mut setup = disk("speed-blk-read mib=1000000", folder);
    setup.disks[0].engine = engine;
    let image: Vec<u8> = (0..4_u32 << 20).map(|at| (at >> 17).to_le_bytes()[0]).collect();
    fs::write(&setup.disks[0].path, image).unwrap();
    setup
}

fn expect_reads(guest: &Guest, before: u64) {
    let look = || (guest.counter("block", "reads") > before).then_some(());
    eventually("the disk is read", look);
}

#[test]
fn nothing_changes_guest_memory_while_the_machine_is_paused() {
    for engine in ENGINES {
        let kvm = kvm_or_skip!();
        let folder = folder();
        let guest = start(&endless_reads(engine, &folder), kvm);
        let mut before = 0;
        for _ in 0..5 {
            expect_reads(&guest, before);
            guest.command(Request::Pause);
            let memory = guest.memory();
            before = guest.counter("block", "reads");
            assert!(guest.memory() == memory, "{engine:?}: memory changed");
            assert_eq!(guest.counter("block", "reads"), before, "{engine:?}: it reads on");
            guest.command(Request::Resume);
        }
        guest.command(Request::Stop);
        assert!(guest.finish(DEADLINE).status.is_some_and(|status| status.success()));
    }
}

#[test]
fn pause_is_refused_while_a_disk_hangs_and_the_guest_goes_on() {
    let kvm = kvm_or_skip!();
    let folder = folder();
    let guest = start(&endless_reads(EngineKind::Threads, &folder), kvm);
    expect_reads(&guest, 0);
    // At its request, or without one.
    let calls = [libc::SYS_preadv, libc::SYS_futex];
    let held = match Held::threads(guest.pid(), "disk-", &calls) {
        Ok(held) => held,
        Err(error) => return eprintln!("SKIPPED: hold the threads of a disk: {error}"),
    };
    assert_eq!(held.count(), 4);
    let refusal = || match guest.control().command(Request::Pause, DEADLINE) {
        Err(ClientError::Refused { reason }) => Some(reason),
        // The guest had nothing at work, and is about to.
        Ok(()) => {
            guest.command(Request::Resume);
            None
        }
        Err(error) => panic!("{error}"),
    };
    let reason = eventually("a pause is refused", refusal);
    assert!(reason.contains("disk0"), "{reason}");
    let before = guest.counter("block", "reads");
    drop(held);
    expect_reads(&guest, before + 20);
    guest.command(Request::Pause);
    let memory = guest.memory();
    assert!(guest.memory() == memory, "memory changed");
    guest.command(Request::Resume);
    expect_reads(&guest, guest.counter("block", "reads"));
    guest.command(Request::Stop);
    assert!(guest.finish(DEADLINE).status.is_some_and(|status| status.success()));
}
