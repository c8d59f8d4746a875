//! `-m` and `--cpus`: seen inside, and enforced.

use std::time::Duration;

use husk_tests::{BUSYBOX, Bed};

#[test]
fn limits_are_seen_inside() {
    let bed = Bed::new();
    bed.husk(&[
        "run", "-d", "--name", "c", "-m", "128m", "--cpus", "0.5", BUSYBOX, "sleep", "1000",
    ])
    .ok();
    let sh = |script: &str| bed.exec_sh("c", script).ok().out();
    assert_eq!(sh("cat /sys/fs/cgroup/memory.max"), (128 << 20).to_string());
    assert_eq!(sh("cat /sys/fs/cgroup/cpu.max"), "50000 100000");
    let inspect = bed.inspect("c");
    assert_eq!(inspect["HostConfig"]["Memory"], 128 << 20);
    assert_eq!(inspect["HostConfig"]["NanoCpus"], 500_000_000);
}

#[test]
fn as_many_cpus_are_there_as_were_asked_for() {
    let bed = Bed::new();
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(bed.run(&["--cpus", "1"], &["nproc"]).ok().out(), "1");
    if here < 2 {
        eprintln!("SKIPPED in part: this machine has one CPU, so --cpus 2 cannot be tried");
        return;
    }
    assert_eq!(bed.run(&["--cpus", "2"], &["nproc"]).ok().out(), "2");
}

#[test]
fn half_a_cpu_is_half_the_time() {
    let bed = Bed::new();
    bed.husk(&[
        "run",
        "-d",
        "--name",
        "c",
        "--cpus",
        "0.5",
        BUSYBOX,
        "sh",
        "-c",
        "while :; do :; done",
    ])
    .ok();
    // By the guest's own accounts, so that a busy host does not count.
    let script = "a=$(cat /proc/uptime); b=$(grep usage_usec /sys/fs/cgroup/cpu.stat); sleep 4; \
                  c=$(cat /proc/uptime); d=$(grep usage_usec /sys/fs/cgroup/cpu.stat); echo $a $b $c $d";
    let output = bed.exec_sh("c", script).ok().out();
    let numbers: Vec<f64> = output.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [up_before, _, used_before, up_after, _, used_after] = numbers[..] else {
        panic!("{output}");
    };
    let share = (used_after - used_before) / 1e6 / (up_after - up_before);
    assert!(share < 0.7, "{share}: {output}");
    assert!(
        bed.exec_sh("c", "grep nr_throttled /sys/fs/cgroup/cpu.stat").ok().out()
            != "nr_throttled 0"
    );
}

#[test]
fn process_that_takes_more_memory_than_allowed_is_killed() {
    let bed = Bed::new();
    // tail keeps what it reads until a newline comes; none ever does.
    let words = ["run", "--name", "hog", "-m", "32m", BUSYBOX, "tail", "/dev/zero"];
    bed.husk(&words).deadline(Duration::from_secs(120)).output().code(137);
    let inspect = bed.inspect("hog");
    assert_eq!(inspect["State"]["OOMKilled"], true, "{inspect}");
    assert_eq!(inspect["State"]["ExitCode"], 137);
    assert_eq!(inspect["State"]["Error"], "");
}

#[test]
fn process_within_its_limit_is_left_alone_and_a_child_that_is_not_is_told_of() {
    let bed = Bed::new();
    let script = "tail /dev/zero; echo $?; exit 5";
    let words = ["run", "--name", "c", "-m", "32m", BUSYBOX, "sh", "-c", script];
    let output = bed.husk(&words).deadline(Duration::from_secs(120)).output().code(5);
    assert_eq!(output.out(), "137");
    assert_eq!(bed.inspect("c")["State"]["OOMKilled"], true);
    bed.sh(&["-m", "64m"], "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null").ok();
}
