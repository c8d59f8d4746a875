//! Resources: what is asked for is in the container's cgroup, and holds.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container};
use serde_json::{Value, json};

use crate::{bed_or_skip, output, refusal};

/// What the container reads from files of its cgroup.
fn files(bed: &Bed, resources: Value, files: &[&str]) -> String {
    let script = format!("cd /sys/fs/cgroup && cat {}", files.join(" "));
    output(bed, &Container::sh(&script).with("/linux/resources", resources))
}

fn refused(bed: &Bed, resources: Value) -> (ErrorKind, String) {
    let container = Container::sh("true").with("/linux/resources", resources);
    let refusal = refusal(bed.run(&container));
    (refusal.kind, refusal.message)
}

/// The cgroups of a container, writable.
pub fn with_writable_cgroups(mut container: Container) -> Container {
    for mount in container.spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys/fs/cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "rw"]);
        }
    }
    container
}

/// The numbers of the writable disk.
pub fn disk(bed: &Bed) -> (i64, i64) {
    let script = "for disk in /sys/block/vd*; do \
                  if [ $(cat $disk/serial) = disk ]; then cat $disk/dev; fi; done";
    let said = output(bed, &Container::sh(script));
    let (major, minor) = said.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

#[test]
fn swap_is_what_the_total_leaves_beside_memory() {
    let bed = bed_or_skip!();
    let resources = json!({"memory": {"limit": 32 << 20, "swap": 48 << 20}});
    let read = files(bed, resources, &["memory.max", "memory.swap.max"]);
    assert_eq!(read, "33554432\n16777216\n");
}

#[test]
fn memory_without_a_limit_has_swap_without_one() {
    let bed = bed_or_skip!();
    let resources = json!({"memory": {"limit": -1, "reservation": -1}});
    let read = files(bed, resources, &["memory.max", "memory.swap.max", "memory.low"]);
    assert_eq!(read, "max\nmax\nmax\n");
}

#[test]
fn burst_is_what_a_quota_may_save() {
    let bed = bed_or_skip!();
    let resources = json!({"cpu": {"quota": 20_000, "period": 50_000, "burst": 10_000}});
    assert_eq!(files(bed, resources, &["cpu.max", "cpu.max.burst"]), "20000 50000\n10000\n");
}

#[test]
fn idle_container_runs_when_nobody_else_does() {
    let bed = bed_or_skip!();
    let resources = json!({"cpu": {"idle": 1}});
    assert_eq!(files(bed, resources, &["cpu.idle", "cpu.weight"]), "1\n0\n");
    let both = json!({"cpu": {"idle": 1, "shares": 512}});
    let (kind, message) = refused(bed, both);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(message.contains("linux.resources.cpu.idle"), "{message}");
}

#[test]
fn processors_are_those_of_the_set() {
    let bed = bed_or_skip!();
    let script = "cat /sys/fs/cgroup/cpuset.cpus /sys/fs/cgroup/cpuset.mems; nproc; \
                  taskset -p $$ | tr -d 0-9; grep Cpus_allowed_list /proc/self/status";
    let container =
        Container::sh(script).with("/linux/resources", json!({"cpu": {"cpus": "0", "mems": "0"}}));
    let said = output(bed, &container);
    let expected = "0\n0\n1\npid 's current affinity mask: \nCpus_allowed_list:\t0\n";
    assert_eq!(said, expected);
}

#[test]
fn limit_of_processes_is_one_of_the_container() {
    let bed = bed_or_skip!();
    assert_eq!(files(bed, json!({"pids": {"limit": 17}}), &["pids.max"]), "17\n");
    for none in [0, -1] {
        assert_eq!(files(bed, json!({"pids": {"limit": none}}), &["pids.max"]), "max\n");
    }
}

#[test]
fn limits_of_a_disk_are_in_force() {
    let bed = bed_or_skip!();
    let (major, minor) = disk(bed);
    let limit = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let resources = json!({
        "blockIO": {
            "throttleReadBpsDevice": limit(1 << 20),
            "throttleWriteIOPSDevice": limit(100),
        },
        "devices": [{"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"}],
    });
    // A lower bound only: the first mebibyte may pass at once, the others wait a second each.
    let script = format!(
        "cat /sys/fs/cgroup/io.max; mknod /dev/disk b {major} {minor}; begin=$(date +%s); \
         dd if=/dev/disk of=/dev/null bs=1M skip=16 count=4 2>/dev/null; \
         test $(($(date +%s) - begin)) -ge 2 && echo slow"
    );
    let said = output(bed, &Container::sh(&script).with("/linux/resources", resources));
    let expected = format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=100\nslow\n");
    assert_eq!(said, expected);
}

#[test]
fn weights_share_the_disks() {
    let bed = bed_or_skip!();
    let (major, minor) = disk(bed);
    let resources = json!({"blockIO": {
        "weight": 500,
        "weightDevice": [{"major": major, "minor": minor, "weight": 1000}],
    }});
    let expected = format!("default 4950\n{major}:{minor} 10000\n");
    assert_eq!(files(bed, resources, &["io.weight"]), expected);
    let (kind, message) = refused(bed, json!({"blockIO": {"weight": 5}}));
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(message.contains("linux.resources.blockIO.weight"), "{message}");
}

#[test]
fn device_that_is_not_there_cannot_be_throttled() {
    let bed = bed_or_skip!();
    let limit = json!([{"major": 4000, "minor": 1, "rate": 1}]);
    let (kind, message) = refused(bed, json!({"blockIO": {"throttleReadBpsDevice": limit}}));
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(message.contains("io.max") && message.contains("4000:1"), "{message}");
}

#[test]
fn huge_pages_are_limited_by_their_size() {
    let bed = bed_or_skip!();
    let resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    let read = files(bed, resources, &["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"]);
    assert_eq!(read, "4194304\n4194304\n");
    let missing = json!({"hugepageLimits": [{"pageSize": "64KB", "limit": 0}]});
    let (kind, message) = refused(bed, missing);
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("no huge pages of 64KB"), "{message}");
    let nonsense = json!({"hugepageLimits": [{"pageSize": "2MB/../x", "limit": 0}]});
    assert_eq!(refused(bed, nonsense).0, ErrorKind::Invalid);
}

#[test]
fn unified_has_the_last_word() {
    let bed = bed_or_skip!();
    let resources = json!({
        "memory": {"limit": 32 << 20},
        "cpu": {"shares": 2},
        "unified": {"memory.max": "67108864", "cpu.weight": "77", "memory.oom.group": "1"},
    });
    let read = files(bed, resources, &["memory.max", "cpu.weight", "memory.oom.group"]);
    assert_eq!(read, "67108864\n77\n1\n");
}

#[test]
fn file_that_the_kernel_does_not_have_is_told_with_its_option() {
    let bed = bed_or_skip!();
    for (resources, part) in [
        (json!({"unified": {"memory.nothing": "1"}}), "memory.nothing"),
        (json!({"unified": {"rdma.max": "x hca_handle=1"}}), "CONFIG_CGROUP_RDMA"),
        (json!({"unified": {"io.latency": "1:1 target=1"}}), "CONFIG_BLK_CGROUP_IOLATENCY"),
        (json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), "CONFIG_CGROUP_RDMA"),
    ] {
        let (kind, message) = refused(bed, resources);
        assert_eq!(kind, ErrorKind::Unsupported, "{message}");
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_only_the_first_cgroups_had_is_refused_by_name() {
    let bed = bed_or_skip!();
    for (resources, field) in [
        (json!({"memory": {"swappiness": 10}}), "memory.swappiness"),
        (json!({"memory": {"disableOOMKiller": true}}), "memory.disableOOMKiller"),
        (json!({"memory": {"kernelTCP": 1 << 20}}), "memory.kernelTCP"),
        (json!({"cpu": {"realtimeRuntime": 1000}}), "cpu.realtimeRuntime"),
        (json!({"network": {"classID": 5}}), "network.classID"),
        (json!({"blockIO": {"leafWeight": 100}}), "blockIO.leafWeight"),
    ] {
        let (kind, message) = refused(bed, resources);
        assert_eq!(kind, ErrorKind::Unsupported, "{message}");
        assert!(message.contains(&format!("linux.resources.{field} is not")), "{message}");
    }
}

#[test]
fn path_in_the_form_of_systemd_is_refused() {
    let bed = bed_or_skip!();
    let container =
        Container::sh("true").with("/linux/cgroupsPath", json!("system.slice:husk:web"));
    let refused = refusal(bed.run(&container));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("systemd"), "{refused:?}");
}

#[test]
fn memory_hog_dies_within_its_limit_while_a_neighbour_lives() {
    let bed = bed_or_skip!();
    let limit = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let neighbour = Container::sh("sleep 1000").with("/linux/resources", limit.clone());
    bed.block_on(async {
        let id = bed.launch(&neighbour).await.unwrap();
        let hog = Container::sh("dd if=/dev/zero of=/dev/null bs=64M count=1")
            .with("/linux/resources", limit);
        bed.launch(&hog).await.unwrap();
        assert_eq!(bed.wait(&hog.id, "").await.unwrap(), (137, true));
        bed.delete(&hog.id).await.unwrap();
        let inside = husk_tests::agent_bed::process(&["cat", "/sys/fs/cgroup/memory.events"]);
        let events = bed.run_exec(&id, &inside).await.unwrap().stdout;
        assert!(events.contains("\noom_kill 0\n"), "{events}");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn container_that_uses_up_its_quota_is_throttled() {
    let bed = bed_or_skip!();
    let script = "while ! grep -q 'nr_throttled [1-9]' /sys/fs/cgroup/cpu.stat; do \
                  i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; done; echo throttled";
    let container = Container::sh(script)
        .with("/linux/resources", json!({"cpu": {"quota": 20_000, "period": 100_000}}));
    assert_eq!(output(bed, &container), "throttled\n");
}

#[test]
fn cgroups_of_the_container_s_own_do_not_lift_its_limits() {
    let bed = bed_or_skip!();
    let script = "cd /sys/fs/cgroup; mkdir inner inner2; echo $$ > inner/cgroup.procs; \
                  echo '+pids' > cgroup.subtree_control; echo 1000 > inner/pids.max; \
                  cat inner/pids.max; \
                  i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done; echo unlimited";
    let path = "/nested/limits";
    let container = with_writable_cgroups(Container::sh(script))
        .with("/linux/cgroupsPath", json!(path))
        .with("/linux/resources", json!({"pids": {"limit": 10}}));
    let ended = bed.run(&container).unwrap();
    assert_eq!(ended.stdout, "1000\n", "{ended:?}");
    assert!(ended.stderr.contains("can't fork"), "{ended:?}");
    // All of them are gone: the path is free, and its parent was removed too.
    let look = Container::sh("ls -d /guest/nested || echo gone").mount(json!({
        "destination": "/guest", "source": "/sys/fs/cgroup", "options": ["rbind", "ro"],
    }));
    assert!(bed.run(&look).unwrap().stdout.ends_with("gone\n"));
    let again = Container::sh("true").with("/linux/cgroupsPath", json!(path));
    assert_eq!(bed.run(&again).unwrap().code, 0);
}

#[test]
fn cgroups_are_not_nested_deeper_than_they_can_be_removed() {
    let bed = bed_or_skip!();
    let script = "cd /sys/fs/cgroup; i=0; \
                  while mkdir d 2>/dev/null && cd d; do i=$((i+1)); done; echo $((i < 70))";
    let container = with_writable_cgroups(Container::sh(script));
    assert_eq!(output(bed, &container), "1\n");
}

#[test]
fn container_that_is_refused_leaves_no_parents_of_its_cgroup() {
    let bed = bed_or_skip!();
    let container = Container::sh("true")
        .with("/linux/cgroupsPath", json!("/never/made/it"))
        .with("/linux/resources", json!({"unified": {"nothing.max": "1"}}));
    assert_eq!(refusal(bed.run(&container)).kind, ErrorKind::Unsupported);
    let look = Container::sh("ls -d /guest/never 2>/dev/null || echo gone").mount(json!({
        "destination": "/guest", "source": "/sys/fs/cgroup", "options": ["rbind", "ro"],
    }));
    assert_eq!(output(bed, &look), "gone\n");
}

#[test]
fn container_below_one_that_is_paused_is_refused_and_delays_nobody() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let outer = Container::sh("sleep 1000")
            .with("/linux/cgroupsPath", json!("/outer"))
            .user_namespace();
        let id = bed.launch(&outer).await.unwrap();
        bed.pause(&id).await.unwrap();
        // Its birth has a process in between that the one who starts it listens to.
        let inner = Container::sh("true")
            .with("/linux/cgroupsPath", json!("/outer/inner"))
            .joining("user", &outer);
        let refused = bed.create(&inner, &Default::default()).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::WrongState);
        assert!(refused.message.contains("/inner is below a cgroup that is paused"), "{refused:?}");
        bed.remove(&id).await.unwrap();
    });
}

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
