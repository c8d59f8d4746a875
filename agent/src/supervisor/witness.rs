//! Tasks that tell the actor what becomes of a process: that the kernel kills for want of memory,
//! and that the process has ended. They poll descriptors; no container has a thread of its own.

use husk_protocols::id::{ContainerId, ExecId};
use tokio::task::JoinHandle;

use super::{
    desk::{Desk, Note},
    events::Happening,
    process::Done,
};
use crate::cgroup::{Cgroup, Watched};

/// A task that ends with its process's end, or with this.
#[derive(Debug)]
pub struct Witness(JoinHandle<()>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Witness {
    /// Of a container's first process, and of the container's memory.
    #[must_use]
    pub fn of_container(id: ContainerId, cgroup: &Cgroup, done: Done, desk: Desk) -> Self {
        // A kernel that cannot limit memory does not kill for it.
        let memory = cgroup.watch("memory.events").ok();
        let mut testimony = Testimony { id, desk, told: 0 };
        Self(tokio::spawn(async move { testimony.give(memory, done).await }))
    }

    /// Of an exec.
    #[must_use]
    pub fn of_exec(id: ContainerId, exec: ExecId, mut done: Done, desk: Desk) -> Self {
        Self(tokio::spawn(async move {
            let outcome = done.wait_for(Option::is_some).await.map(|outcome| *outcome);
            if let Ok(Some(outcome)) = outcome {
                desk.tell(Note::Happened(id, Some(exec), Happening::Exited(outcome)));
            }
        }))
    }

    /// Waits until it has told everything.
    pub async fn finish(&mut self) {
        // One that has panicked has nothing more to tell.
        let _ = (&mut self.0).await;
    }

    /// Whether it has.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

struct Testimony {
    id: ContainerId,
    desk: Desk,
    told: u64,
}

impl Testimony {
    async fn give(&mut self, memory: Option<Watched>, mut done: Done) {
        let kills = || memory.as_ref().and_then(|memory| memory.value("oom_kill").ok());
        let outcome = loop {
            self.tell(kills().unwrap_or_default());
            tokio::select! {
                outcome = done.wait_for(Option::is_some) => match outcome.map(|outcome| *outcome) {
                    Ok(Some(outcome)) => break outcome,
                    _ => return,
                },
                () = changed(memory.as_ref()) => {}
            }
        };
        // The kernel holds such news back for some milliseconds, and the cgroup may be gone by now.
        self.tell(kills().unwrap_or(u64::from(outcome.oom_killed)));
        self.desk.tell(Note::Happened(self.id.clone(), None, Happening::Exited(outcome)));
    }

    fn tell(&mut self, kills: u64) {
        if kills > self.told {
            self.told = kills;
            self.desk.tell(Note::Happened(self.id.clone(), None, Happening::Oom { kills }));
        }
    }
}

async fn changed(memory: Option<&Watched>) {
    let result = match memory {
        Some(memory) => memory.changed().await,
        None => std::future::pending().await,
    };
    if result.is_err() {
        std::future::pending().await
    }
}
