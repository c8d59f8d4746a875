//! What the VMM's process leaves behind, and what it does without its monitor.

use std::time::Duration;

use husk_tests::bare_bed::{Guest, Setup};

use super::{DEADLINE, kvm_or_skip, start};

fn bare(case: &str) -> Setup {
    Setup { rng: false, ..Setup::new(case) }
}

fn is_there(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn vmm_dies_with_the_thread_that_started_it() {
    let kvm = kvm_or_skip!();
    let starter = std::thread::spawn(move || {
        let guest = start(&bare("halt"), kvm);
        guest.expect("halting", DEADLINE);
        std::mem::ManuallyDrop::new(guest).pid()
    });
    let pid = starter.join().unwrap();
    let gone = || (!is_there(pid)).then_some(());
    husk_tests::wait::eventually(Duration::from_secs(10), "the VMM is gone", gone);
}

#[test]
fn many_machines_run_beside_each_other() {
    let mut guests: Vec<Guest> = Vec::new();
    for number in 0..8 {
        let kvm = kvm_or_skip!();
        guests.push(start(&Setup::new(&format!("rng number={number}")), kvm));
    }
    for guest in guests {
        guest.finish(DEADLINE).expect_passed();
    }
}

#[test]
fn machine_that_cannot_be_is_refused_in_one_line() {
    for (what, setup) in [
        ("memory", Setup { memory_mib: 31, ..bare("hello") }),
        ("memory", Setup { memory_mib: u32::MAX, ..bare("hello") }),
        ("CPUs", Setup { vcpus: 0, ..bare("hello") }),
        ("CPUs", Setup { vcpus: 1000, ..bare("hello") }),
        ("balloon", Setup { balloon: Some(64), ..bare("hello") }),
    ] {
        let kvm = kvm_or_skip!();
        let ended = start(&setup, kvm).finish(DEADLINE);
        let status = ended.status.expect("the VMM ends by itself");
        assert_eq!(status.code(), Some(husk_vmm::process::EXIT_REFUSED.into()), "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        assert!(ended.stderr.contains(what), "{ended}");
        assert_eq!(ended.serial, "");
    }
}

#[test]
fn too_many_devices_are_refused() {
    let kvm = kvm_or_skip!();
    let folder = super::folder();
    let mut setup = bare("hello");
    for _ in 0..20 {
        setup = setup.disk(&folder, 1);
    }
    let ended = start(&setup, kvm).finish(DEADLINE);
    assert!(ended.stderr.contains("20 devices"), "{ended}");
}
