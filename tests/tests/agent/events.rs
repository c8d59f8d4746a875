//! What the agent tells of containers, and that it is so.

use std::time::Duration;

use husk_protocols::agent::{Event, EventKind};
use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::{Value, json};

use crate::bed_or_skip;

const SOON: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::ZERO;

fn small_memory() -> Value {
    json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}})
}

const HOG: &str = "dd if=/dev/zero of=/dev/null bs=64M count=1";

/// The latest event.
async fn latest(bed: &Bed) -> u64 {
    let mut last = 0;
    loop {
        let batch = bed.events(last, 0, AT_ONCE).await.unwrap();
        if batch.events.is_empty() {
            return last;
        }
        last = batch.last;
    }
}

/// The events of a container up to the first of a kind.
async fn until(bed: &Bed, mut after: u64, id: &str, last: EventKind) -> Vec<Event> {
    let mut found = Vec::new();
    loop {
        let batch = bed.events(after, 5, SOON).await.unwrap();
        assert!(!batch.events.is_empty(), "{last:?} does not come; {found:?}");
        after = batch.last;
        for event in batch.events.into_iter().filter(|event| event.container_id == id) {
            let is_last = event.kind == last.into();
            found.push(event);
            if is_last {
                return found;
            }
        }
    }
}

fn kinds(events: &[Event]) -> Vec<EventKind> {
    events.iter().map(|event| event.kind.unwrap()).collect()
}

#[test]
fn life_of_a_container_is_told_in_its_order() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let after = latest(bed).await;
        let container = Container::sh("read line; exit 7");
        let id = container.id.clone();
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&id).await.unwrap();
        bed.run_exec(&id, &process(&["sh", "-c", "exit 3"])).await.unwrap();
        bed.pause(&id).await.unwrap();
        bed.resume(&id).await.unwrap();
        bed.update(&id, &json!({"pids": {"limit": 40}})).await.unwrap();
        drop(stdio);
        assert_eq!(bed.wait(&id, "").await.unwrap().0, 7);
        bed.remove(&id).await.unwrap();
        let events = until(bed, after, &id, EventKind::EVENT_KIND_DELETED).await;
        let expected = [
            EventKind::EVENT_KIND_CREATED,
            EventKind::EVENT_KIND_STARTED,
            EventKind::EVENT_KIND_EXEC_STARTED,
            EventKind::EVENT_KIND_EXITED,
            EventKind::EVENT_KIND_PAUSED,
            EventKind::EVENT_KIND_RESUMED,
            EventKind::EVENT_KIND_UPDATED,
            EventKind::EVENT_KIND_EXITED,
            EventKind::EVENT_KIND_DELETED,
        ];
        assert_eq!(kinds(&events), expected, "{events:?}");
        assert_eq!(events[2].exec_id, events[3].exec_id);
        assert_eq!(events[3].exit_code, 3);
        assert!(events[7].exec_id.is_empty());
        assert!(events.iter().all(|event| event.time_ns > 0));
        assert!(events.is_sorted_by_key(|event| event.sequence));
    });
}

#[test]
fn death_for_want_of_memory_is_told_before_the_end() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let after = latest(bed).await;
        let container =
            Container::sh(&format!("{HOG}; exit 5")).with("/linux/resources", small_memory());
        let id = bed.launch(&container).await.unwrap();
        let (code, oom_killed) = bed.wait(&id, "").await.unwrap();
        assert_eq!((code, oom_killed), (5, true));
        bed.delete(&id).await.unwrap();
        let events = until(bed, after, &id, EventKind::EVENT_KIND_DELETED).await;
        let expected = [
            EventKind::EVENT_KIND_CREATED,
            EventKind::EVENT_KIND_STARTED,
            EventKind::EVENT_KIND_OOM,
            EventKind::EVENT_KIND_EXITED,
            EventKind::EVENT_KIND_DELETED,
        ];
        assert_eq!(kinds(&events), expected, "{events:?}");
        assert_eq!(events[2].oom_kills, 1);
        assert_eq!((events[3].exit_code, events[3].oom_killed), (5, true));
    });
}

#[test]
fn container_that_lives_on_is_told_of_too() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let after = latest(bed).await;
        let container = Container::sh("sleep 1000").with("/linux/resources", small_memory());
        let id = bed.launch(&container).await.unwrap();
        for kills in 1..=2 {
            let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
            let ended = bed.run_exec(&id, &process(&hog)).await.unwrap();
            assert_eq!((ended.code, ended.oom_killed), (137, true));
            assert_eq!(bed.stats(&id).await.unwrap().memory.oom_kills, kills);
        }
        let events = until(bed, after, &id, EventKind::EVENT_KIND_OOM).await;
        assert!(events.last().unwrap().oom_kills >= 1, "{events:?}");
        // An exec that somebody kills has not died of the earlier want.
        let stdio = bed.open_stdio(false).await.unwrap();
        let exec = bed.exec(&id, &process(&["sleep", "1000"]), &stdio).await.unwrap();
        bed.signal(&id, &exec, 9, false).await.unwrap();
        assert_eq!(bed.wait(&id, &exec).await.unwrap(), (137, false));
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn one_who_waits_for_events_is_answered_by_the_next() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let after = latest(bed).await;
        let container = Container::sh("true");
        let (events, ()) =
            tokio::join!(until(bed, after, &container.id, EventKind::EVENT_KIND_EXITED), async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                bed.launch(&container).await.unwrap();
            });
        assert_eq!(kinds(&events).first(), Some(&EventKind::EVENT_KIND_CREATED));
        bed.remove(&container.id).await.unwrap();
        // One who wants no more than a look is not kept.
        let future = bed.events(u64::MAX - 1, 0, AT_ONCE).await.unwrap();
        assert!(future.events.is_empty());
    });
}

#[test]
fn events_are_taken_in_pieces() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let after = latest(bed).await;
        bed.remove(&bed.launch(&Container::sh("true")).await.unwrap()).await.unwrap();
        let first = bed.events(after, 1, AT_ONCE).await.unwrap();
        assert_eq!((first.events.len(), first.lost, first.last), (1, 0, after + 1));
        let second = bed.events(first.last, 2, AT_ONCE).await.unwrap();
        assert_eq!((second.events.len(), second.last), (2, after + 3));
        assert_eq!(second.events[0].sequence, after + 2);
    });
}
