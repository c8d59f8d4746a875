//! The same guest on both hypervisors says the same: what honest drivers see of devices is no
//! matter of who makes them.

use std::thread::JoinHandle;

use husk_tests::bare_bed::{Accelerator, Ended, Setup, run_in_qemu};
use husk_vmm::vsock::VsockHandle;

use super::net::with_tap;
use super::vsock::{self, echo, greet, ignore, pass_with, serve, take_one_when_asked};
use super::{folder, pass};

/// Lines that are the same wherever a guest runs: no numbers of the host's, no slots.
fn same(serial: &str) -> Vec<&str> {
    let differs = |line: &&str| {
        ["command line", "memory ", "total ", "protocol ", "at most "]
            .iter()
            .any(|words| line.starts_with(words))
    };
    serial.lines().map(str::trim_end).filter(|line| !differs(line)).collect()
}

/// What a guest says in QEMU is what it says on the built-in VMM. False without QEMU.
fn is_same_in_qemu(ours: &Ended, setup: &Setup, host: impl FnOnce(&VsockHandle)) -> bool {
    let Some(theirs) = run_in_qemu(setup, Accelerator::Tcg, host).unwrap() else {
        eprintln!("SKIPPED: qemu-system-x86_64 is not in PATH (apt-get install qemu-system-x86)");
        return false;
    };
    assert_eq!(same(&ours.serial), same(&theirs.serial), "{}", setup.case);
    true
}

fn compare(setup: &Setup) -> bool {
    pass(setup).is_some_and(|ours| is_same_in_qemu(&ours, setup, |_| ()))
}

/// The same of byte streams, with a thread on the host's side.
fn compare_streams(case: &str, host: fn(&VsockHandle) -> JoinHandle<()>) -> bool {
    let Some(ours) = pass_with(case, host) else { return false };
    let mut server = None;
    let same = is_same_in_qemu(&ours, &vsock::setup(case), |vsock| server = Some(host(vsock)));
    if let Some(server) = server {
        server.join().unwrap();
    }
    same
}

#[test]
fn rings_and_entropy_are_the_same_in_qemu() {
    for case in [
        "hello",
        "rng",
        "rng-interrupt",
        "ring-wraps chains=70000",
        "ring-wraps-event-index chains=70000",
        "ring-of-one",
        "ring-of-most",
        "ring-full",
        "ring-event-index",
        "ring-no-interrupt",
        "ring-reset-again",
        "ring-interrupt-status",
        "ring-anywhere",
        "timer",
        "unknown-mmio",
        "serial-lines lines=20",
    ] {
        if !compare(&Setup::new(case)) {
            return;
        }
    }
}

#[test]
fn disks_are_the_same_in_qemu() {
    for case in [
        "blk-identity",
        "blk-write-read",
        "blk-parts",
        "blk-interrupt",
        "blk-indirect",
        "blk-out-of-range",
        "blk-discard",
        "blk-write-zeroes",
        "blk-reset-in-flight",
    ] {
        let folder = folder();
        if !compare(&Setup::new(case).disk(&folder, 4)) {
            return;
        }
    }
}

/// Not here: `net-spoof`, since QEMU lets frames of any address pass, and `net-odd-frames`, since
/// QEMU stops a device for a buffer of no bytes (DEVICE_NEEDS_RESET), where ours gives it back and
/// goes on: virtio 1.2 §2.1.2 leaves what is beyond recovery to the device.
#[test]
fn frames_are_the_same_in_qemu() {
    for case in [
        "net-config",
        "net-arp",
        "net-ping",
        "net-ping-interrupt",
        "net-mergeable",
        "net-receive-ring-full",
        "net-reset",
    ] {
        // A tap for each: it ends with its VMM.
        let (Some(ours), Some(theirs)) = (with_tap(case), with_tap(case)) else { return };
        let Some(ours) = pass(&ours) else { return };
        if !is_same_in_qemu(&ours, &theirs, |_| ()) {
            return;
        }
    }
}

#[test]
fn streams_are_the_same_in_qemu() {
    let with_echo: fn(&VsockHandle) -> JoinHandle<()> = |vsock| serve(vsock, echo);
    let unheard: fn(&VsockHandle) -> JoinHandle<()> = |vsock| serve(vsock, ignore);
    for (case, host) in [
        ("vsock-config", with_echo),
        ("vsock-echo bytes=262144", with_echo),
        ("vsock-echo-interrupt", with_echo),
        ("vsock-refused", with_echo),
        ("vsock-reset", with_echo),
        ("vsock-no-receive-buffers", with_echo),
        ("vsock-malformed", with_echo),
        ("vsock-credit", unheard),
        ("vsock-overrun", unheard),
        ("vsock-flood", unheard),
        ("vsock-accept", greet),
        ("vsock-backlog", take_one_when_asked),
    ] {
        if !compare_streams(case, host) {
            return;
        }
    }
}
