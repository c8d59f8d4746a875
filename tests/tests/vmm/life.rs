//! What the VMM's process leaves behind, and what it does without its monitor.

use husk_tests::bare_bed::{Guest, Setup, Size};
use husk_vmm::control::Event;

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
    husk_tests::wait::eventually("the VMM is gone", gone);
}

#[test]
fn vmm_ends_when_its_monitor_lets_go() {
    for case in ["halt", "hang"] {
        let kvm = kvm_or_skip!();
        let mut guest = start(&bare(case), kvm);
        guest.expect("ing\n", DEADLINE);
        guest.desert();
        let ended = guest.finish(DEADLINE);
        let status = ended.status.expect("the VMM ends by itself");
        assert_eq!(status.code(), Some(husk_vmm::process::EXIT_DESERTED.into()), "{ended}");
    }
}

/// A field of each thread's status, proc_pid_status(5).
fn of_each_thread(pid: u32, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let value = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.expect("the kernel tells").trim().to_owned()
    };
    tasks.map(|task| value(task.unwrap())).collect()
}

#[test]
fn every_thread_of_a_running_machine_is_filtered_and_has_no_capability() {
    let kvm = kvm_or_skip!();
    let folder = super::folder();
    let size = Size { vcpus: 2, ..Size::default() };
    let mut setup = Setup { size, vsock: true, ..Setup::new("blk-identity linger=1") };
    setup = setup.disk(&folder, 1);
    setup.disks[0].engine = husk_vmm::virtio::blk::EngineKind::Threads;
    let guest = start(&setup, kvm);
    guest.expect("PASSED", DEADLINE);
    let pid = guest.pid();
    for (field, wanted) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
    ] {
        let values = of_each_thread(pid, field);
        assert!(values.len() >= 4, "the main thread, two processors, a worker: {values:?}");
        assert!(values.iter().all(|value| value == wanted), "{field}: {values:?}");
    }
    for namespace in ["net", "mnt"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        let (own, other) = (of("self"), of(&pid.to_string()));
        if nix::unistd::Uid::effective().is_root() {
            assert_ne!(own, other, "{namespace} namespace");
        }
    }
    guest.command(husk_vmm::control::Request::Stop);
    assert!(guest.finish(DEADLINE).status.is_some_and(|status| status.success()));
}

#[test]
fn machine_runs_for_a_user_without_any_privilege() {
    if !nix::unistd::Uid::effective().is_root() {
        // Then every other test is this one.
        eprintln!("SKIPPED: only root becomes another user");
        return;
    }
    let kvm = kvm_or_skip!();
    let folder = super::folder();
    let nobody = Some(65534);
    let setup = Setup { user: nobody, vsock: true, ..Setup::new("blk-write-read linger=1") };
    let guest = start(&setup.disk(&folder, 4), kvm);
    guest.expect("PASSED", DEADLINE);
    for (field, wanted) in [("Seccomp", "2"), ("NoNewPrivs", "1"), ("CapEff", "0000000000000000")] {
        let values = of_each_thread(guest.pid(), field);
        assert!(values.iter().all(|value| value == wanted), "{field}: {values:?}");
    }
    let statistics = guest.statistics();
    assert!(statistics.memory.is_some(), "its own memory can be measured");
    guest.command(husk_vmm::control::Request::Stop);
    let ended = guest.finish(DEADLINE);
    assert!(ended.status.is_some_and(|status| status.success()), "{ended}");
    // What holds without privileges depends on the host; that it is told does not.
    let told = |event: &Event| matches!(event, Event::Built { jail } if jail.len() == 7 && jail["user"] == "yes");
    assert!(ended.events.iter().any(told), "{ended}");
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
    let usual = Size::default();
    for (what, size) in [
        ("memory", Size { memory_mib: 31, ..usual }),
        ("memory", Size { memory_mib: u32::MAX, ..usual }),
        ("CPUs", Size { vcpus: 0, ..usual }),
        ("CPUs", Size { vcpus: 1000, ..usual }),
        ("balloon", Size { balloon_mib: Some(64), ..usual }),
    ] {
        let kvm = kvm_or_skip!();
        let ended = start(&bare("hello").sized(size), kvm).finish(DEADLINE);
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
