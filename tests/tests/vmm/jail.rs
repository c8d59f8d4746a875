//! The VMM's process from outside, while its guest runs: that it is in its jail, every thread of
//! it.

use std::fs;
use std::path::PathBuf;

use husk_tests::bare_bed::{Setup, Size};

use super::{DEADLINE, kvm_or_skip, start};

/// A field of proc_pid_status(5).
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

fn threads(process: &str) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("{process}/task")).unwrap();
    tasks.map(|task| task.unwrap().path().join("status")).collect()
}

#[test]
fn every_thread_of_a_running_vmm_is_in_the_jail() {
    let kvm = kvm_or_skip!();
    let guest = start(&Setup::new("halt").sized(Size { vcpus: 3, ..Size::default() }), kvm);
    guest.expect("halting", DEADLINE);
    let process = format!("/proc/{}", guest.pid());
    let threads = threads(&process);
    // The first thread, and one for each processor.
    assert!(threads.len() >= 4, "{threads:?}");
    for thread in threads {
        let status = fs::read_to_string(thread).unwrap();
        // SECCOMP_MODE_FILTER
        assert_eq!(field(&status, "Seccomp"), "2", "{status}");
        assert_eq!(field(&status, "Seccomp_filters"), "1", "{status}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{status}");
        }
        let users = field(&status, "Uid");
        assert!(users.split_whitespace().all(|user| user != "0"), "{status}");
    }
}

#[test]
fn running_vmm_has_an_empty_root_and_namespaces_of_its_own() {
    let kvm = kvm_or_skip!();
    let guest = start(&Setup::new("halt"), kvm);
    guest.expect("halting", DEADLINE);
    let process = format!("/proc/{}", guest.pid());
    let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    for name in ["mnt", "net", "ipc", "uts", "cgroup"] {
        match fs::read_link(format!("{process}/ns/{name}")) {
            Ok(namespace) => assert_ne!(namespace, own(name)),
            // Its folder belongs to root.
            Err(error) => {
                eprintln!("SKIPPED: look into the VMM's namespaces: {error}");
                return;
            }
        }
    }
    assert_eq!(fs::read_dir(format!("{process}/root")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(format!("{process}/cwd")).unwrap().count(), 0);
}

#[test]
fn running_vmm_takes_no_more_of_the_host_than_it_may() {
    let kvm = kvm_or_skip!();
    let guest = start(&Setup::new("halt"), kvm);
    guest.expect("halting", DEADLINE);
    let limits = fs::read_to_string(format!("/proc/{}/limits", guest.pid())).unwrap();
    let own = fs::read_to_string("/proc/self/limits").unwrap();
    for (name, most) in
        [("Max open files", 2048), ("Max data size", 1 << 30), ("Max core file size", 0)]
    {
        // Soft and hard: nothing raises them again. A host may have given less to begin with.
        let hard: u64 = limit(&own, name)[1].parse().unwrap_or(u64::MAX);
        let wanted = hard.min(most).to_string();
        assert_eq!(limit(&limits, name), [wanted.as_str(), wanted.as_str()], "{limits}");
    }
}

/// Soft and hard limit, of proc_pid_limits(5).
fn limit<'a>(limits: &'a str, name: &str) -> [&'a str; 2] {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut words = line.split_whitespace();
    [words.next().unwrap(), words.next().unwrap()]
}
