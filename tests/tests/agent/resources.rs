//! cgroups.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::Container;
use serde_json::json;

use crate::{bed_or_skip, output, refusal};

#[test]
fn limits_are_in_force_before_the_process_runs() {
    let bed = bed_or_skip!();
    let resources = json!({
        "memory": {"limit": 33_554_432, "reservation": 1_048_576},
        "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000},
        "pids": {"limit": 20},
        "unified": {"memory.high": "30000000"},
    });
    let files = ["memory.max", "memory.low", "cpu.weight", "cpu.max", "pids.max", "memory.high"];
    let paths: Vec<String> = files.iter().map(|file| format!("/sys/fs/cgroup/{file}")).collect();
    let mut args = vec!["cat"];
    args.extend(paths.iter().map(String::as_str));
    let container = Container::new(&args).with("/linux/resources", resources);
    let said = output(bed, &container);
    assert_eq!(said, "33554432\n1048576\n39\n50000 100000\n20\n29999104\n");
}

#[test]
fn fork_bomb_stops_at_its_limit() {
    let bed = bed_or_skip!();
    let script = "i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done; echo unlimited";
    let container = Container::sh(script).with("/linux/resources", json!({"pids": {"limit": 10}}));
    let ended = bed.run(&container).unwrap();
    assert!(ended.stderr.contains("can't fork"), "{ended:?}");
    assert!(!ended.stdout.contains("unlimited"), "{ended:?}");
}

#[test]
fn process_that_takes_too_much_memory_is_killed_and_said_to_be() {
    let bed = bed_or_skip!();
    let script = "dd if=/dev/zero of=/dev/null bs=64M count=1; exit $?";
    let container = Container::sh(script)
        .with("/linux/resources", json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}));
    let ended = bed.run(&container).unwrap();
    assert_eq!((ended.code, ended.oom_killed), (137, true), "{ended:?}");
    assert!(!bed.run(&Container::sh("exit 1")).unwrap().oom_killed);
}

#[test]
fn cgroup_path_is_used_and_given_back() {
    let bed = bed_or_skip!();
    let guest_view = |path: &str| {
        // Without a namespace of its own the container sees the whole path.
        let namespaces = json!(["pid", "mount"].map(|kind| json!({"type": kind})));
        Container::new(&["cat", "/proc/self/cgroup"])
            .with("/linux/cgroupsPath", json!(path))
            .with("/linux/namespaces", namespaces)
            .with("/hostname", json!(null))
    };
    assert_eq!(output(bed, &guest_view("/pods/one/web")), "0::/pods/one/web\n");
    // Again: nothing of the first is in the way.
    assert_eq!(output(bed, &guest_view("pods/one/web")), "0::/pods/one/web\n");
    assert_eq!(refusal(bed.run(&guest_view("/../x"))).kind, ErrorKind::Invalid);
}

#[test]
fn value_that_the_kernel_refuses_is_named() {
    let bed = bed_or_skip!();
    let container = Container::sh("true").with("/linux/resources", json!({"cpu": {"cpus": "77"}}));
    let refused = refusal(bed.run(&container));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("cpuset.cpus"), "{refused:?}");
    let missing =
        Container::sh("true").with("/linux/resources", json!({"unified": {"nothing.max": "1"}}));
    assert_eq!(refusal(bed.run(&missing)).kind, ErrorKind::Unsupported);
}
