//! New resources for containers that run.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::{Value, json};

use crate::{bed_or_skip, cgroup::disk};

async fn sleeper(bed: &Bed, resources: Value) -> String {
    bed.launch(&Container::sh("sleep 1000").with("/linux/resources", resources)).await.unwrap()
}

/// What the container reads from files of its cgroup.
async fn files(bed: &Bed, id: &str, files: &[&str]) -> String {
    let script = format!("cd /sys/fs/cgroup && cat {}", files.join(" "));
    bed.run_exec(id, &process(&["sh", "-c", &script])).await.unwrap().stdout
}

#[test]
fn update_changes_what_it_speaks_of() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let first = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}});
        let id = sleeper(bed, first).await;
        let next = json!({
            "memory": {"limit": 96 << 20, "reservation": 1 << 20},
            "cpu": {"shares": 2, "quota": 40_000, "period": 100_000},
        });
        bed.update(&id, &next).await.unwrap();
        let names = ["memory.max", "memory.low", "cpu.weight", "cpu.max", "pids.max"];
        let read = files(bed, &id, &names).await;
        assert_eq!(read, "100663296\n1048576\n1\n40000 100000\n50\n");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn update_that_fails_half_way_leaves_everything_as_it_was() {
    let bed = bed_or_skip!();
    let (major, minor) = disk(bed);
    bed.block_on(async {
        let limit = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
        let id = sleeper(
            bed,
            json!({
                "memory": {"limit": 64 << 20}, "pids": {"limit": 50},
                "blockIO": {"throttleReadBpsDevice": limit(5 << 20)},
            }),
        )
        .await;
        let names =
            ["memory.max", "memory.swap.max", "memory.low", "cpu.max", "pids.max", "io.max"];
        let before = files(bed, &id, &names).await;
        let next = json!({
            "memory": {"limit": 96 << 20, "swap": 100 << 20, "reservation": 1 << 20},
            "cpu": {"quota": 40_000},
            "pids": {"limit": 70},
            "blockIO": {"throttleReadBpsDevice": limit(1 << 20)},
            "unified": {"cpuset.cpus": "77"},
        });
        let refused = bed.update(&id, &next).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains("cpuset.cpus"), "{refused:?}");
        assert_eq!(files(bed, &id, &names).await, before);
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn update_that_cannot_be_carried_out_is_refused_before_anything_changes() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = sleeper(bed, json!({"pids": {"limit": 50}})).await;
        for (resources, kind, part) in [
            (json!({"memory": {"swappiness": 5}}), ErrorKind::Unsupported, "swappiness"),
            (json!({"unified": {"rdma.max": "x"}}), ErrorKind::Unsupported, "CONFIG_CGROUP_RDMA"),
            (json!({"devices": [{"allow": true}]}), ErrorKind::Invalid, "devices[0]"),
            (json!(5), ErrorKind::Invalid, "read the spec"),
        ] {
            let mut resources = resources;
            if resources.is_object() {
                resources["pids"] = json!({"limit": 70});
            }
            let refused = bed.update(&id, &resources).await.unwrap_err();
            assert_eq!(refused.kind, kind, "{refused:?}");
            assert!(refused.message.contains(part), "{refused:?}");
        }
        assert_eq!(files(bed, &id, &["pids.max"]).await, "50\n");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn memory_below_what_is_in_use_is_refused_where_that_is_asked_for() {
    let bed = bed_or_skip!();
    // A tmpfs keeps what is written to it in memory.
    let script = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=12 2>/dev/null; \
                  touch /tmp/ready; sleep 1000";
    bed.block_on(async {
        let id = bed.launch(&Container::sh(script)).await.unwrap();
        let ready = process(&["sh", "-c", "until [ -e /tmp/ready ]; do sleep 0.05; done"]);
        bed.run_exec(&id, &ready).await.unwrap();
        let next = json!({"memory": {"limit": 8 << 20, "checkBeforeUpdate": true}});
        let refused = bed.update(&id, &next).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains("8388608 bytes are below"), "{refused:?}");
        assert_eq!(files(bed, &id, &["memory.max"]).await, "max\n");
        let enough = json!({"memory": {"limit": 64 << 20, "checkBeforeUpdate": true}});
        bed.update(&id, &enough).await.unwrap();
        assert_eq!(files(bed, &id, &["memory.max"]).await, "67108864\n");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn period_alone_leaves_the_quota_and_burst_follows_it_down() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let cpu = json!({"cpu": {"quota": 50_000, "period": 100_000, "burst": 40_000}});
        let id = sleeper(bed, cpu).await;
        let names = ["cpu.max", "cpu.max.burst"];
        bed.update(&id, &json!({"cpu": {"period": 200_000}})).await.unwrap();
        assert_eq!(files(bed, &id, &names).await, "50000 200000\n40000\n");
        // The kernel takes no quota below the burst, nor a burst above the quota.
        bed.update(&id, &json!({"cpu": {"quota": 10_000, "burst": 5000}})).await.unwrap();
        assert_eq!(files(bed, &id, &names).await, "10000 200000\n5000\n");
        bed.update(&id, &json!({"cpu": {"quota": 90_000, "burst": 80_000}})).await.unwrap();
        assert_eq!(files(bed, &id, &names).await, "90000 200000\n80000\n");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn device_rules_are_replaced() {
    let bed = bed_or_skip!();
    let (major, minor) = disk(bed);
    bed.block_on(async {
        let id = sleeper(bed, json!({})).await;
        let make = format!("mknod /dev/disk b {major} {minor}");
        bed.run_exec(&id, &process(&["sh", "-c", &make])).await.unwrap();
        let script = "head -c 512 /dev/disk >/dev/null 2>&1 && echo open || echo closed";
        let look = process(&["sh", "-c", script]);
        let rule =
            json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"});
        let all = json!({"allow": true, "access": "rwm"});
        for (list, expected) in [
            (None, "closed\n"),
            (Some(json!([rule])), "open\n"),
            (Some(json!([])), "closed\n"),
            (Some(json!([all])), "open\n"),
            (Some(json!([all])), "open\n"),
            (Some(json!([{"allow": false, "access": "rwm"}])), "closed\n"),
            // What does not speak of devices leaves them.
            (None, "closed\n"),
        ] {
            let resources =
                list.map_or(json!({"pids": {"limit": 50}}), |list| json!({"devices": list}));
            bed.update(&id, &resources).await.unwrap();
            let ended = bed.run_exec(&id, &look).await.unwrap();
            assert_eq!(ended.stdout, expected, "{resources}");
        }
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn paused_container_takes_new_limits_and_a_stopped_one_none() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = sleeper(bed, json!({})).await;
        bed.pause(&id).await.unwrap();
        bed.update(&id, &json!({"pids": {"limit": 33}})).await.unwrap();
        bed.resume(&id).await.unwrap();
        assert_eq!(files(bed, &id, &["pids.max"]).await, "33\n");
        bed.signal(&id, "", 9, true).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        let refused = bed.update(&id, &json!({"pids": {"limit": 34}})).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::WrongState);
        bed.delete(&id).await.unwrap();
        let gone = bed.update(&id, &json!({})).await.unwrap_err();
        assert_eq!(gone.kind, ErrorKind::NotFound);
    });
}
