//! Numbers of containers, held against what the containers read themselves.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::json;

use crate::{bed_or_skip, cgroup::disk};

async fn inside(bed: &Bed, id: &str, script: &str) -> String {
    bed.run_exec(id, &process(&["sh", "-c", script])).await.unwrap().stdout
}

/// The number behind a name in a file of the cgroup.
async fn number(bed: &Bed, id: &str, file: &str, name: &str) -> u64 {
    let text = inside(bed, id, &format!("cat /sys/fs/cgroup/{file}")).await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn processor_time_is_what_the_container_reads() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000";
        let id = bed.launch(&Container::sh(script)).await.unwrap();
        let before = number(bed, &id, "cpu.stat", "usage_usec").await;
        let cpu = bed.stats(&id).await.unwrap().cpu.unwrap();
        let after = number(bed, &id, "cpu.stat", "usage_usec").await;
        assert!(before > 0 && before <= cpu.usage_us && cpu.usage_us <= after, "{cpu:?}");
        assert!(cpu.user_us + cpu.system_us <= cpu.usage_us + 1000, "{cpu:?}");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn throttling_is_counted() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let script = "until grep -q 'nr_throttled [1-9]' /sys/fs/cgroup/cpu.stat; do \
                      i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; done; \
                      touch /tmp/throttled; sleep 1000";
        let quota = json!({"cpu": {"quota": 20_000, "period": 100_000}});
        let container = Container::sh(script).with("/linux/resources", quota);
        let id = bed.launch(&container).await.unwrap();
        inside(bed, &id, "until [ -e /tmp/throttled ]; do sleep 0.1; done").await;
        let cpu = bed.stats(&id).await.unwrap().cpu.unwrap();
        assert!(cpu.throttled_periods > 0 && cpu.throttled_us > 0, "{cpu:?}");
        assert!(cpu.periods >= cpu.throttled_periods, "{cpu:?}");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn memory_has_its_limit_its_peak_and_its_parts() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let script = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=8 2>/dev/null; \
                      touch /tmp/filled; sleep 1000";
        let limit = json!({"memory": {"limit": 64 << 20, "swap": 80 << 20}});
        let id = bed.launch(&Container::sh(script).with("/linux/resources", limit)).await.unwrap();
        inside(bed, &id, "until [ -e /tmp/filled ]; do sleep 0.05; done").await;
        let memory = bed.stats(&id).await.unwrap().memory.unwrap();
        assert_eq!(memory.limit_bytes, Some(64 << 20));
        assert_eq!(memory.swap_limit_bytes, Some(16 << 20));
        assert!(memory.current_bytes >= 8 << 20 && memory.current_bytes < 64 << 20, "{memory:?}");
        assert!(memory.peak_bytes.unwrap() >= memory.current_bytes, "{memory:?}");
        assert_eq!(memory.details["shmem"], number(bed, &id, "memory.stat", "shmem ").await);
        assert!(memory.details["shmem"] >= 8 << 20);
        assert_eq!((memory.oom_kills, memory.swap_bytes), (0, 0));
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn container_without_limits_has_none() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let stats = bed.stats(&id).await.unwrap();
        assert_eq!(stats.memory.limit_bytes, None);
        assert_eq!(stats.memory.swap_limit_bytes, None);
        assert_eq!(stats.pids.limit, None);
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn processes_are_counted() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        // The shell makes the file itself: a program for it may be there for a moment longer.
        let container = Container::sh("sleep 1000 & sleep 1000 & : > /tmp/ready; wait")
            .with("/linux/resources", json!({"pids": {"limit": 30}}));
        let id = bed.launch(&container).await.unwrap();
        inside(bed, &id, "until [ -e /tmp/ready ]; do sleep 0.05; done").await;
        let pids = bed.stats(&id).await.unwrap().pids.unwrap();
        assert_eq!((pids.current, pids.limit), (3, Some(30)));
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn bytes_of_a_disk_are_its_own() {
    let bed = bed_or_skip!();
    let (major, minor) = disk(bed);
    bed.block_on(async {
        let rule =
            json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"});
        let container =
            Container::sh("sleep 1000").with("/linux/resources", json!({"devices": [rule]}));
        let id = bed.launch(&container).await.unwrap();
        // Nobody else reads so far behind: the guest has none of it in memory.
        let script = format!(
            "mknod /dev/disk b {major} {minor}; \
             dd if=/dev/disk of=/dev/null bs=1M skip=28 count=2 2>/dev/null; \
             grep ^{major}:{minor} /sys/fs/cgroup/io.stat"
        );
        let line = inside(bed, &id, &script).await;
        let stats = bed.stats(&id).await.unwrap();
        let own = (u32::try_from(major).unwrap(), u32::try_from(minor).unwrap());
        let io = stats.io.iter().find(|io| (io.major, io.minor) == own).unwrap();
        assert!(io.read_bytes >= 2 << 20 && io.read_operations > 0, "{io:?}");
        let expected = format!("rbytes={} wbytes={}", io.read_bytes, io.written_bytes);
        assert!(line.contains(&expected), "{line} {io:?}");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn interfaces_are_those_of_the_container() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let quiet = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let seen =
            inside(bed, &id, "ping -c 3 -i 0.1 127.0.0.1 >/dev/null; cat /proc/net/dev").await;
        let stats = bed.stats(&id).await.unwrap();
        let lo = stats.interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        let line = seen.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
        let numbers: Vec<u64> =
            line.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert_eq!((lo.received.bytes, lo.received.packets), (numbers[0], numbers[1]));
        assert_eq!((lo.sent.bytes, lo.sent.packets), (numbers[8], numbers[9]));
        assert!(lo.sent.packets >= 6, "{lo:?}");
        let other = bed.stats(&quiet).await.unwrap();
        assert!(other.interfaces.iter().all(|interface| interface.sent.packets == 0));
        bed.remove(&id).await.unwrap();
        bed.remove(&quiet).await.unwrap();
    });
}

#[test]
fn pressure_and_huge_pages_are_told() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let container = Container::sh("sleep 1000").with(
            "/linux/resources",
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 2 << 20}]}),
        );
        let id = bed.launch(&container).await.unwrap();
        let before = inside(bed, &id, "head -n 1 /sys/fs/cgroup/cpu.pressure").await;
        let before: u64 = before.trim().rsplit_once("total=").unwrap().1.parse().unwrap();
        let stats = bed.stats(&id).await.unwrap();
        assert!(stats.cpu_pressure.some.total_us >= before, "{:?}", stats.cpu_pressure);
        assert!(stats.memory_pressure.is_some() && stats.io_pressure.is_some());
        let pages = stats.huge_pages.iter().find(|pages| pages.page_size == "2MB").unwrap();
        assert_eq!((pages.current_bytes, pages.limit_bytes), (0, Some(2 << 20)));
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn container_that_is_paused_or_not_yet_started_has_stats_too() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let container = Container::sh("sleep 1000");
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        assert_eq!(bed.stats(&container.id).await.unwrap().pids.current, 1);
        bed.start(&container.id).await.unwrap();
        bed.pause(&container.id).await.unwrap();
        assert_eq!(bed.stats(&container.id).await.unwrap().pids.current, 1);
        bed.remove(&container.id).await.unwrap();
    });
}

#[test]
fn stats_of_what_does_not_run_are_refused() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("true")).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        assert_eq!(bed.stats(&id).await.unwrap_err().kind, ErrorKind::WrongState);
        bed.delete(&id).await.unwrap();
        assert_eq!(bed.stats(&id).await.unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(bed.top(&id).await.unwrap_err().kind, ErrorKind::NotFound);
    });
}

#[test]
fn list_of_processes_has_both_numbers_of_each() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000 & echo $! > /tmp/pid; wait")).await.unwrap();
        // It has its name once it executes its program.
        let script = "until [ -s /tmp/pid ] && grep -qx sleep /proc/$(cat /tmp/pid)/comm; do \
                      sleep 0.05; done; cat /tmp/pid";
        let pid = inside(bed, &id, script).await;
        let pid: u32 = pid.trim().parse().unwrap();
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.exec(&id, &process(&["sleep", "999"]), &stdio).await.unwrap();
        let top = bed.top(&id).await.unwrap();
        let mut found: Vec<_> =
            top.iter().map(|process| (process.pid_inside, process.name.as_str())).collect();
        found.sort_unstable();
        assert_eq!(found.first(), Some(&(1, "sh")));
        assert!(found.contains(&(pid, "sleep")), "{found:?} {pid}");
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(top.iter().all(|process| process.pid != process.pid_inside), "{top:?}");
        bed.remove(&id).await.unwrap();
    });
}
