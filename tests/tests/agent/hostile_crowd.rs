//! Containers that use up what the guest has: processes, memory. Each case has a VM of its own;
//! after it the agent answers, and the next container runs.

use std::{path::Path, time::Duration};

use husk_tests::agent_bed::{Bed, Container, process};

use crate::output;

/// Longer than threads of the agent's wait for something to do.
const LULL: Duration = Duration::from_secs(15);

fn own_bed() -> Option<Bed> {
    crate::bed()?;
    Some(Bed::boot(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap())
}

/// What is expected of the guest when a container has done its worst and is gone.
fn well(bed: &Bed) {
    bed.block_on(async {
        bed.info().await.unwrap();
        assert!(bed.list().await.unwrap().is_empty());
    });
    assert_eq!(output(bed, &Container::sh("echo well")), "well\n");
}

#[test]
fn container_that_takes_all_processes_is_deleted_all_the_same() {
    let Some(bed) = own_bed() else { return };
    // The shell in between ends when it cannot fork; all that it has started stay.
    let bomb = "echo ready; (while :; do sleep 1000 & done) 2>/dev/null; exec sleep 1000";
    let container = Container::sh(bomb);
    bed.block_on(async {
        let stdio = bed.up(&container).await.unwrap();
        // All that there can be are there, and threads of the agent that had nothing to do have
        // ended.
        tokio::time::sleep(LULL).await;
        bed.info().await.unwrap();
        // It has no room; what matters is the answer.
        let _ = bed.run_exec(&container.id, &process(&["true"])).await;
        bed.remove(&container.id).await.unwrap();
        drop(stdio);
    });
    well(&bed);
}

#[test]
fn container_that_takes_all_memory_dies_and_not_the_agent() {
    let Some(bed) = own_bed() else { return };
    let hog = "dd if=/dev/zero of=/dev/null bs=4000M count=1; \
               x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";
    let ended = bed.run(&Container::sh(hog)).unwrap();
    assert_ne!(ended.code, 0);
    well(&bed);
}
