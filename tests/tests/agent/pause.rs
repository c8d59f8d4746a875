//! Containers that stand still.

use std::time::Duration;

use husk_protocols::{agent::State, error::ErrorKind};
use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};

use crate::{bed_or_skip, cgroup::with_writable_cgroups, life::during_slow_creations};

const SILENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether what is paused stands still.
const LOOKS: u32 = 20;

async fn sleeper(bed: &Bed) -> String {
    bed.launch(&Container::sh("sleep 1000")).await.unwrap()
}

/// What the guest says of a container's cgroup.
async fn guest_says_frozen(bed: &Bed, id: &str) -> String {
    let script = format!("grep frozen /guest/husk/{id}/cgroup.events");
    let container = Container::sh(&script).mount(json!({
        "destination": "/guest", "source": "/sys/fs/cgroup", "options": ["rbind", "ro"],
    }));
    let stdio = bed.open_stdio(false).await.unwrap();
    bed.create(&container, &stdio).await.unwrap();
    bed.start(&container.id).await.unwrap();
    let ended = bed.finish(&container.id, "", stdio, b"").await.unwrap();
    bed.delete(&container.id).await.unwrap();
    ended.stdout
}

/// Reads what is under way, until the container has used no processor for a while.
async fn stands_still(bed: &Bed, id: &str, stream: &mut UnixStream) {
    let mut buffer = [0; 4096];
    for _ in 0..LOOKS {
        let before = bed.stats(id).await.unwrap().cpu.usage_us;
        while timeout(SILENCE, stream.read(&mut buffer)).await.is_ok() {}
        if bed.stats(id).await.unwrap().cpu.usage_us == before {
            return;
        }
    }
    panic!("it goes on");
}

#[test]
fn paused_container_does_nothing_and_goes_on_where_it_was() {
    let bed = bed_or_skip!();
    let container = Container::sh("while echo tick; do sleep 0.02; done");
    bed.block_on(async {
        let mut stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let mut ticks = stdio.stdout.take().unwrap();
        let mut tick = [0; 5];
        ticks.read_exact(&mut tick).await.unwrap();
        bed.pause(&container.id).await.unwrap();
        stands_still(bed, &container.id, &mut ticks).await;
        bed.resume(&container.id).await.unwrap();
        ticks.read_exact(&mut tick).await.unwrap();
        bed.remove(&container.id).await.unwrap();
    });
}

#[test]
fn paused_container_is_listed_so_and_its_cgroup_is_frozen() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = sleeper(bed).await;
        assert_eq!(bed.state(&id).await.unwrap(), Some(State::STATE_RUNNING));
        bed.pause(&id).await.unwrap();
        assert_eq!(bed.state(&id).await.unwrap(), Some(State::STATE_PAUSED));
        assert_eq!(guest_says_frozen(bed, &id).await, "frozen 1\n");
        bed.resume(&id).await.unwrap();
        assert_eq!(bed.state(&id).await.unwrap(), Some(State::STATE_RUNNING));
        assert_eq!(guest_says_frozen(bed, &id).await, "frozen 0\n");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn nothing_is_started_in_a_paused_container() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = sleeper(bed).await;
        bed.pause(&id).await.unwrap();
        let refused = bed.run_exec(&id, &process(&["true"])).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::WrongState);
        assert!(refused.message.contains("paused"), "{refused:?}");
        for refused in [bed.start(&id).await, bed.delete(&id).await, bed.pause(&id).await] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::WrongState);
            assert!(refused.message.contains("paused"), "{refused:?}");
        }
        bed.resume(&id).await.unwrap();
        assert_eq!(bed.run_exec(&id, &process(&["true"])).await.unwrap().code, 0);
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn only_a_container_that_runs_is_paused_or_resumed() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let container = Container::sh("true");
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        assert_eq!(bed.pause(&container.id).await.unwrap_err().kind, ErrorKind::WrongState);
        bed.start(&container.id).await.unwrap();
        bed.wait(&container.id, "").await.unwrap();
        assert_eq!(bed.pause(&container.id).await.unwrap_err().kind, ErrorKind::WrongState);
        assert_eq!(bed.resume(&container.id).await.unwrap_err().kind, ErrorKind::WrongState);
        bed.delete(&container.id).await.unwrap();
        assert_eq!(bed.pause(&container.id).await.unwrap_err().kind, ErrorKind::NotFound);
        let id = sleeper(bed).await;
        let early = bed.resume(&id).await.unwrap_err();
        assert!(early.message.contains("running"), "{early:?}");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn paused_container_can_be_killed_and_deleted() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        for all in [false, true] {
            let id = sleeper(bed).await;
            bed.pause(&id).await.unwrap();
            bed.signal(&id, "", 9, all).await.unwrap();
            assert_eq!(bed.wait(&id, "").await.unwrap().0, 137);
            assert_eq!(bed.state(&id).await.unwrap(), Some(State::STATE_STOPPED));
            bed.delete(&id).await.unwrap();
        }
    });
}

#[test]
fn signal_to_a_paused_container_arrives_when_it_goes_on() {
    let bed = bed_or_skip!();
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    bed.block_on(async {
        let container = Container::sh(script);
        let mut stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        stdio.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).await.unwrap();
        bed.pause(&container.id).await.unwrap();
        bed.signal(&container.id, "", 15, false).await.unwrap();
        assert!(timeout(SILENCE, bed.wait(&container.id, "")).await.is_err(), "it went on");
        bed.resume(&container.id).await.unwrap();
        assert_eq!(bed.wait(&container.id, "").await.unwrap().0, 5);
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn execs_and_cgroups_of_the_container_s_own_stand_too() {
    let bed = bed_or_skip!();
    let script = "mkdir /sys/fs/cgroup/inner; sleep 1000 & \
                  echo $! > /sys/fs/cgroup/inner/cgroup.procs; touch /tmp/ready; wait";
    bed.block_on(async {
        let id = bed.launch(&with_writable_cgroups(Container::sh(script))).await.unwrap();
        let ready = process(&["sh", "-c", "until [ -e /tmp/ready ]; do sleep 0.05; done"]);
        bed.run_exec(&id, &ready).await.unwrap();
        let stdio = bed.open_stdio(false).await.unwrap();
        let exec = bed.exec(&id, &process(&["sleep", "1000"]), &stdio).await.unwrap();
        bed.pause(&id).await.unwrap();
        assert_eq!(guest_says_frozen(bed, &format!("{id}/inner")).await, "frozen 1\n");
        // A signal to all finds every one of them; one that ends a process does it at once.
        bed.signal(&id, "", 15, true).await.unwrap();
        assert_eq!(bed.wait(&id, &exec).await.unwrap().0, 143);
        bed.resume(&id).await.unwrap();
        // The shell ends once the process in the inner cgroup has.
        bed.wait(&id, "").await.unwrap();
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn two_who_pause_at_once_get_one_yes() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = sleeper(bed).await;
        let (a, b) = tokio::join!(bed.pause(&id), bed.pause(&id));
        assert_eq!(u32::from(a.is_ok()) + u32::from(b.is_ok()), 1, "{a:?} {b:?}");
        let refused = a.err().or(b.err()).unwrap();
        assert_eq!(refused.kind, ErrorKind::WrongState, "{refused:?}");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn container_that_hangs_delays_no_call_on_another() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let frozen = sleeper(bed).await;
        bed.pause(&frozen).await.unwrap();
        during_slow_creations(bed, 3, async |id: String| {
            bed.stats(&id).await.unwrap();
            bed.stats(&frozen).await.unwrap();
            bed.run_exec(&id, &process(&["true"])).await.unwrap();
            bed.update(&id, &json!({"pids": {"limit": 50}})).await.unwrap();
            bed.pause(&id).await.unwrap();
            bed.resume(&id).await.unwrap();
            bed.top(&id).await.unwrap();
            bed.signal(&id, "", 9, true).await.unwrap();
            bed.wait(&id, "").await.unwrap();
            bed.delete(&id).await.unwrap();
        })
        .await;
        bed.remove(&frozen).await.unwrap();
    });
}
