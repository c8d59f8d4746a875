//! Creation, start, exec, signals, wait, deletion.

use std::time::Duration;

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::json;

use crate::bed_or_skip;

/// How often others may be too slow to come before a creation that waits for its device.
const TRIES: u32 = 10;

#[test]
fn created_container_runs_nothing_before_its_start() {
    let bed = bed_or_skip!();
    let container = Container::new(&["echo", "ran"]);
    bed.block_on(async {
        let mut stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        let mut byte = [0];
        let early = tokio::time::timeout(
            Duration::from_millis(300),
            tokio::io::AsyncReadExt::read(stdio.stdout.as_mut().unwrap(), &mut byte),
        );
        assert!(early.await.is_err(), "it wrote before its start");
        bed.start(&container.id).await.unwrap();
        let ended = bed.finish(&container.id, "", stdio, b"").await.unwrap();
        assert_eq!(ended.stdout, "ran\n");
        let again = bed.start(&container.id).await.unwrap_err();
        assert_eq!(again.kind, ErrorKind::WrongState);
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn created_container_can_be_deleted() {
    let bed = bed_or_skip!();
    let container = Container::new(&["true"]);
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.delete(&container.id).await.unwrap();
        let gone = bed.start(&container.id).await.unwrap_err();
        assert_eq!(gone.kind, ErrorKind::NotFound);
    });
}

#[test]
fn id_in_use_and_running_container_are_protected() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 100")).await.unwrap();
        let mut twin = Container::new(&["true"]);
        twin.id.clone_from(&id);
        let stdio = bed.open_stdio(false).await.unwrap();
        assert_eq!(bed.create(&twin, &stdio).await.unwrap_err().kind, ErrorKind::AlreadyExists);
        assert_eq!(bed.delete(&id).await.unwrap_err().kind, ErrorKind::WrongState);
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn wait_is_answered_to_everybody_and_late() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 0.3; exit 9")).await.unwrap();
        let (a, b) = tokio::join!(bed.wait(&id, ""), bed.wait(&id, ""));
        assert_eq!((a.unwrap().0, b.unwrap().0), (9, 9));
        assert_eq!(bed.wait(&id, "").await.unwrap().0, 9);
        bed.delete(&id).await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap_err().kind, ErrorKind::NotFound);
    });
}

#[test]
fn signals_reach_the_process_and_what_is_stopped_says_so() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let container =
            Container::sh("trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done");
        let mut stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let mut ready = [0; 6];
        let stdout = stdio.stdout.as_mut().unwrap();
        tokio::io::AsyncReadExt::read_exact(stdout, &mut ready).await.unwrap();
        bed.signal(&container.id, "", 15, false).await.unwrap();
        assert_eq!(bed.wait(&container.id, "").await.unwrap().0, 4);
        let refused = bed.signal(&container.id, "", 15, false).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::WrongState);
        assert!(refused.message.contains("container not running"), "{refused:?}");
        let nonsense = bed.signal(&container.id, "", 99, false).await.unwrap_err();
        assert_eq!(nonsense.kind, ErrorKind::Invalid);
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn signal_to_all_ends_every_process() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 100 & sleep 100 & wait")).await.unwrap();
        let stdio = bed.open_stdio(false).await.unwrap();
        let exec = bed.exec(&id, &process(&["sleep", "100"]), &stdio).await.unwrap();
        bed.signal(&id, "", 15, true).await.unwrap();
        assert_eq!(bed.wait(&id, &exec).await.unwrap().0, 143);
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn signals_without_a_name_end_processes_and_are_their_status() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let sleeper = async || {
            let stdio = bed.open_stdio(false).await.unwrap();
            bed.exec(&id, &process(&["sleep", "1000"]), &stdio).await.unwrap()
        };
        let (one, other) = (sleeper().await, sleeper().await);
        // Real-time signals: signal(7).
        bed.signal(&id, &one, 34, false).await.unwrap();
        assert_eq!(bed.wait(&id, &one).await.unwrap().0, 128 + 34);
        bed.signal(&id, "", 64, true).await.unwrap();
        assert_eq!(bed.wait(&id, &other).await.unwrap().0, 128 + 64);
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn exec_is_inside_with_its_own_user_and_folder() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("echo from-the-container > /tmp/mark; sleep 100; :")).await.unwrap();
        let script = "until [ -s /tmp/mark ]; do sleep 0.05; done; cat /tmp/mark; hostname; pwd; \
                      id -u; cat /proc/self/cgroup; cat /proc/1/comm; grep CapEff /proc/self/status";
        let mut inside = process(&["sh", "-c", script]);
        inside["cwd"] = json!("/var/data");
        inside["user"] = json!({"uid": 0, "gid": 0});
        inside["capabilities"] =
            json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]});
        let ended = bed.run_exec(&id, &inside).await.unwrap();
        let expected =
            "from-the-container\ninside\n/var/data\n0\n0::/\nsh\nCapEff:\t0000000000000020\n";
        assert_eq!(ended.stdout, expected, "{ended:?}");
        let missing = bed.run_exec(&id, &process(&["nothing"])).await.unwrap_err();
        assert_eq!(missing.kind, ErrorKind::CommandNotFound);
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn exec_in_a_stopped_container_is_refused() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("exit 0")).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        let refused = bed.run_exec(&id, &process(&["true"])).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::WrongState);
        bed.delete(&id).await.unwrap();
    });
}

#[test]
fn end_of_the_first_process_ends_all_others() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        // It ends with its input.
        let container = Container::sh("read -r _; exit 0");
        let input = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &input).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let stdio = bed.open_stdio(false).await.unwrap();
        let exec = bed.exec(&container.id, &process(&["sleep", "100"]), &stdio).await.unwrap();
        drop(input);
        assert_eq!(bed.wait(&container.id, "").await.unwrap().0, 0);
        assert_eq!(bed.wait(&container.id, &exec).await.unwrap().0, 137);
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn container_that_is_slow_to_create_delays_nobody() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        during_slow_creations(bed, 1, async |id: String| {
            bed.run_exec(&id, &process(&["true"])).await.unwrap();
            bed.signal(&id, "", 9, false).await.unwrap();
            bed.wait(&id, "").await.unwrap();
            bed.delete(&id).await.unwrap();
        })
        .await;
    });
}

/// Uses a container up while others are created whose device never appears, for which the agent
/// looks for some seconds. On a busy machine that may be too short, so this begins again; where
/// creations hold other calls up, these never come first.
pub async fn during_slow_creations(bed: &'static Bed, count: usize, others: impl AsyncFn(String)) {
    for _ in 0..TRIES {
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let mut creations = tokio::task::JoinSet::new();
        for _ in 0..count {
            creations.spawn(async move {
                let stdio = bed.open_stdio(false).await.unwrap();
                let slow = Container::new(&["true"]).image("absent");
                assert!(bed.create(&slow, &stdio).await.is_err());
            });
        }
        // So that they are under way.
        tokio::time::sleep(Duration::from_millis(200)).await;
        others(id).await;
        let mut first = true;
        while let Some(creation) = creations.try_join_next() {
            creation.unwrap();
            first = false;
        }
        creations.join_all().await;
        if first {
            return;
        }
    }
    panic!("the slow ones were first {TRIES} times");
}

#[test]
fn many_containers_at_once_leave_nothing() {
    let bed = bed_or_skip!();
    let ran: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| scope.spawn(move || bed.run(&Container::sh(&format!("echo {i}"))).unwrap()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap().stdout).collect()
    });
    let expected: Vec<_> = (0..8).map(|i| format!("{i}\n")).collect();
    assert_eq!(ran, expected);
}
