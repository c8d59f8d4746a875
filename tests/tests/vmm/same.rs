//! The same guest on both hypervisors says the same: what honest drivers see of devices is no
//! matter of who makes them.

use husk_tests::bare_bed::{Accelerator, Setup, run_in_qemu};

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

fn compare(setup: &Setup) -> bool {
    let Some(ours) = pass(setup) else { return false };
    match run_in_qemu(setup, Accelerator::Tcg).unwrap() {
        Some(theirs) => {
            assert_eq!(same(&ours.serial), same(&theirs.serial), "{}", setup.case);
        }
        None => {
            eprintln!(
                "SKIPPED: qemu-system-x86_64 is not in PATH (apt-get install qemu-system-x86)"
            );
            return false;
        }
    }
    true
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
