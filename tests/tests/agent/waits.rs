//! Exit statuses: once for everybody who waits, early or late.

use husk_tests::agent_bed::{Container, process};

use crate::bed_or_skip;

#[test]
fn twenty_who_wait_get_the_same_status() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let container = Container::sh("read line; exit 42");
        let id = container.id.clone();
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&id).await.unwrap();
        let mut waits = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let id = id.clone();
            waits.spawn(async move { bed.wait(&id, "").await.unwrap() });
        }
        drop(stdio);
        assert_eq!(waits.join_all().await, vec![(42, false); 20]);
        assert_eq!(bed.wait(&id, "").await.unwrap(), (42, false));
        bed.delete(&id).await.unwrap();
    });
}

#[test]
fn status_of_an_exec_outlives_its_container() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let stdio = bed.open_stdio(false).await.unwrap();
        let early = bed.exec(&id, &process(&["sh", "-c", "exit 6"]), &stdio).await.unwrap();
        bed.wait(&id, &early).await.unwrap();
        let stdio = bed.open_stdio(false).await.unwrap();
        let late = bed.exec(&id, &process(&["sleep", "1000"]), &stdio).await.unwrap();
        bed.signal(&id, "", 9, false).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        for _ in 0..2 {
            assert_eq!(bed.wait(&id, &early).await.unwrap().0, 6);
            assert_eq!(bed.wait(&id, &late).await.unwrap().0, 137);
        }
        bed.delete(&id).await.unwrap();
    });
}

#[test]
fn wait_is_answered_while_others_still_run() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let mut waits = tokio::task::JoinSet::new();
        for status in 0..10_u32 {
            let id = id.clone();
            waits.spawn(async move {
                let command = format!("exit {status}");
                let ended = bed.run_exec(&id, &process(&["sh", "-c", &command])).await.unwrap();
                (status, ended.code)
            });
        }
        assert!(waits.join_all().await.into_iter().all(|(wanted, got)| wanted == got));
        bed.remove(&id).await.unwrap();
    });
}
