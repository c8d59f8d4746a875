//! The agent's behaviour, asserted from inside of containers: what the process sees and can do, and
//! not what the agent says.
//!
//! `make agent-test` boots kernel and guest image under QEMU, speaks the protocol to the agent, and
//! runs these cases; `make agent-test CASE=name` runs those whose path has `name` in it. The cases
//! are threads of one process and share one VM, so none may take what is the guest's own (its
//! clock, its memory) or look at all of it; one that must has a VM of its own. When a VM ends that
//! nobody has asked to end, a panic of the agent among the reasons, the end of its console is shown
//! at once and every case that waits for it fails then.
//!
//! Skipped, loudly, where there is no QEMU or no guest image.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped is a failed case")]

mod cgroup;
mod device_rules;
mod devices;
mod events;
mod files;
mod guest;
mod harness;
mod hook_failures;
mod hooks;
mod hostile;
mod hostile_crowd;
mod hostile_guest;
mod hostile_image;
mod hostile_process;
mod life;
mod logs;
mod metrics;
mod mounts;
mod namespaces;
mod namespaces_pid;
mod namespaces_refused;
mod namespaces_time;
mod namespaces_user;
mod namespaces_user_shared;
mod pause;
mod privileges;
mod process;
mod robustness;
mod rootfs;
mod sandbox;
mod seccomp;
mod stats;
mod stdio;
mod stress;
mod update;
mod waits;

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use husk_tests::agent_bed::{Answer, Bed, Container, Ended, Refusal};
use serde_json::Value;

/// The VM that all cases of this process share.
fn bed() -> Option<&'static Bed> {
    match Bed::shared(Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(bed) => Some(bed),
        Err(error) if is_missing(&error) => {
            eprintln!("SKIPPED: {error:#}");
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// What is not installed or not built, rather than broken.
fn is_missing(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    ["(make build)", "apt-get install", "mkfs.erofs", "mke2fs", "busybox-static"]
        .iter()
        .any(|hint| text.contains(hint))
}

/// The VM has one disk: cases that use it take turns, each for as long as it holds this.
fn turn_at_the_disk() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A case that has failed has left it to the next.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shared VM, or the end of the case.
macro_rules! bed_or_skip {
    () => {
        match crate::bed() {
            Some(bed) => bed,
            None => return,
        }
    };
}
use bed_or_skip;

/// What a script says that must succeed.
fn output(bed: &Bed, container: &Container) -> String {
    let ended = bed.run(container).expect("the container runs");
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    ended.stdout
}

/// A refusal that is expected.
fn refusal(answer: Answer<Ended>) -> Refusal {
    match answer {
        Ok(ended) => panic!("not refused: {ended:?}"),
        Err(refusal) => refusal,
    }
}

/// What a command says in a running container.
async fn said(bed: &Bed, id: &str, script: &str) -> String {
    let process = husk_tests::agent_bed::process(&["sh", "-c", script]);
    let ended = bed.run_exec(id, &process).await.unwrap();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    ended.stdout
}

/// Runs processes in a container that runs meanwhile.
fn execs(bed: &Bed, container: &Container, processes: &[Value]) -> Vec<Answer<Ended>> {
    bed.block_on(async {
        bed.create(container, &Default::default()).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let mut ended = Vec::new();
        for process in processes {
            ended.push(bed.run_exec(&container.id, process).await);
        }
        bed.signal(&container.id, "", 9, false).await.unwrap();
        bed.wait(&container.id, "").await.unwrap();
        bed.delete(&container.id).await.unwrap();
        ended
    })
}
