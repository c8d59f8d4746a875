//! Limits by docker's flags: written where the guest's kernel keeps them, and told by `inspect`.

use husk_tests::{BUSYBOX, Bed};
use serde_json::json;

#[test]
fn limits_stand_in_the_containers_cgroup() {
    let bed = Bed::new();
    bed.husk(&[
        "run",
        "-d",
        "--name",
        "box",
        "-m",
        "128m",
        "--memory-swap",
        "192m",
        "--memory-reservation",
        "64m",
        "--pids-limit",
        "50",
        "-c",
        "512",
        "--cpu-quota",
        "20000",
        "--cpu-period",
        "50000",
        "--cpuset-cpus",
        "0",
        "--cpuset-mems",
        "0",
        BUSYBOX,
        "sleep",
        "1000",
    ])
    .ok();
    let read = |file: &str| bed.exec_sh("box", &format!("cat /sys/fs/cgroup/{file}")).ok().out();
    for (file, value) in [
        ("memory.max", (128 << 20).to_string()),
        ("memory.swap.max", (64 << 20).to_string()),
        ("memory.low", (64 << 20).to_string()),
        ("pids.max", "50".to_owned()),
        ("cpu.max", "20000 50000".to_owned()),
        ("cpuset.cpus", "0".to_owned()),
        ("cpuset.mems", "0".to_owned()),
    ] {
        assert_eq!(read(file), value, "{file}");
    }
    let weight: u32 = read("cpu.weight").parse().unwrap();
    assert!((10..100).contains(&weight), "{weight}");
    let host = bed.inspect("box")["HostConfig"].clone();
    for (key, value) in [
        ("Memory", json!(128 << 20)),
        ("MemorySwap", json!(192 << 20)),
        ("MemoryReservation", json!(64 << 20)),
        ("PidsLimit", json!(50)),
        ("CpuShares", json!(512)),
        ("CpuQuota", json!(20_000)),
        ("CpuPeriod", json!(50_000)),
        ("CpusetCpus", json!("0")),
        ("CpusetMems", json!("0")),
    ] {
        assert_eq!(host[key], value, "{key}");
    }
}

#[test]
fn weight_of_disk_traffic_is_set() {
    let bed = Bed::new();
    let output = bed.sh(&["--blkio-weight", "300"], "cat /sys/fs/cgroup/io.weight").ok().out();
    assert!(output.starts_with("default "), "{output}");
    assert_ne!(output, "default 100");
}

#[test]
fn fork_bomb_stops_at_the_limit() {
    let bed = Bed::new();
    let script =
        "n=0; while sleep 1000 & do n=$((n+1)); [ $n -ge 40 ] && break; done 2>/dev/null; echo $n";
    let output =
        bed.sh(&["--pids-limit", "10"], &format!("({script}) 2>/dev/null; echo over")).output();
    let lines = output.out();
    let count: u32 = lines.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0);
    assert!(count < 10, "{lines}");
    let max = |flags: &[&str]| bed.sh(flags, "cat /sys/fs/cgroup/pids.max").ok().out();
    assert_eq!((max(&["--pids-limit", "-1"]), max(&[])), ("max".to_owned(), "max".to_owned()));
}

#[test]
fn machine_has_the_cpus_that_are_named() {
    let bed = Bed::new();
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("SKIPPED: this machine has one CPU, so --cpuset-cpus 1 cannot be tried");
        return;
    }
    let script =
        "cat /sys/fs/cgroup/cpuset.cpus.effective; nproc; grep -c ^processor /proc/cpuinfo";
    assert_eq!(bed.sh(&["--cpuset-cpus", "1"], script).ok().out(), "1\n1\n2");
}

#[test]
fn processes_have_their_limits() {
    let bed = Bed::new();
    let flags = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--ulimit",
        "nproc=-1",
        "--oom-score-adj",
        "-500",
    ];
    let script = "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj; \
                  grep 'Max processes' /proc/self/limits";
    let output = bed.sh(&flags, script).ok().out();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..4], ["100", "200", "0", "-500"]);
    assert_eq!(lines[4].matches("unlimited").count(), 2, "{output}");
    bed.husk(&[&["create", "--name", "box"], &flags[..], &[BUSYBOX]].concat()).ok();
    let host = bed.inspect("box")["HostConfig"].clone();
    assert_eq!(host["Ulimits"][1], json!({ "Name": "nofile", "Soft": 100, "Hard": 200 }));
    assert_eq!(host["OomScoreAdj"], -500);
}

#[test]
fn shared_memory_has_its_size() {
    let bed = Bed::new();
    let size = "df -k /dev/shm | tail -n 1 | awk '{print $2}'";
    assert_eq!(bed.sh(&["--shm-size", "1m"], size).ok().out(), "1024");
    assert_eq!(bed.sh(&[], size).ok().out(), "65536");
    bed.sh(&["--ipc", "none"], "! grep -q ' /dev/shm ' /proc/self/mounts").ok();
}

#[test]
fn limits_that_make_no_sense_are_refused_in_dockers_words() {
    let bed = Bed::new();
    for (flags, words) in [
        (&["--memory-swap", "100m"][..], "always set the Memory limit"),
        (&["-m", "100m", "--memory-swap", "50m"], "larger than memory limit"),
        (&["-m", "100m", "--memory-reservation", "200m"], "memory reservation limit"),
        (&["--cpus", "1", "--cpu-quota", "5000"], "Nano CPUs and CPU Quota cannot both be set"),
        (&["--cpu-period", "10"], "cfs period"),
        (&["--cpuset-cpus", "0-999"], "CPUs are not available - requested 0-999"),
        (&["--cpuset-mems", "1"], "memory nodes are not available"),
        (&["--blkio-weight", "5"], "from 10 to 1000"),
        (&["--oom-score-adj", "1001"], "range for oom score adj is [-1000, 1000]"),
        (&["--ulimit", "nofile=2:1"], "less than or equal to hard limit"),
        (&["--ulimit", "bogus=1"], "invalid ulimit type: bogus"),
        (&["--shm-size", "0"], "0"),
        (&["--stop-signal", "NOPE"], "NOPE"),
    ] {
        bed.run(flags, &["true"]).output().refused_with(125, &["run", words]);
    }
    bed.assert_nothing_left();
}
