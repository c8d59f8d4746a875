//! One process that was started: how to reach it, and what became of it.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use super::{assets::blocking, witness::Witness};
use crate::{
    cgroup::Cgroup,
    stdio::{Controls, Pumps},
    sys::process::ExitCode,
};

/// How often it is looked whether killed processes are gone, and how long.
const END_INTERVAL: Duration = Duration::from_millis(2);
const END_TRIES: u32 = 2500;

/// What is known of a process at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// As a shell says it.
    pub exit_code: ExitCode,
    /// The kernel has killed processes of the container for want of memory.
    pub oom_killed: bool,
}

/// Shows the outcome to everybody who waits, also to those who ask late.
pub type Done = watch::Receiver<Option<Outcome>>;

/// A child of the agent.
#[derive(Debug)]
pub struct Spawned {
    /// In the guest's first pid namespace.
    pub pid: Pid,
    /// Refers to it for as long as it is held.
    pub pidfd: Arc<OwnedFd>,
    /// Its end, told by the reaper.
    pub exit: oneshot::Receiver<ExitCode>,
}

/// A process that executes the user's program, or waits to.
#[derive(Debug)]
pub struct Process {
    /// In the guest's first pid namespace.
    pub pid: Pid,
    /// Refers to it for as long as it is held.
    pub pidfd: Arc<OwnedFd>,
    /// Its streams.
    pub controls: Controls,
    /// Its end.
    pub done: Done,
    /// Tells of it.
    pub witness: Option<Witness>,
}

/// Which deaths count as for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomRule {
    /// Any process of the container: for the first one.
    Any,
    /// This one, when it was killed: for an exec.
    Killed,
}

/// What becomes of a container's other processes when this one ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The kernel has ended those that were to end.
    Ends,
    /// They would live on in a pid namespace that is not the container's own: the agent ends them.
    Lives,
}

/// What the end of a process means.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Whether it was for want of memory.
    pub oom: OomRule,
    /// For the others.
    pub rest: Rest,
}

const KILLED: ExitCode = 128 + libc::SIGKILL.cast_unsigned();

impl Process {
    /// Takes over a process. Its outcome is known once it has ended and its output is delivered.
    #[must_use]
    pub fn watch(
        spawned: Spawned,
        pumps: Pumps,
        controls: Controls,
        cgroup: Arc<Cgroup>,
        rule: Rule,
    ) -> Self {
        let (tell, done) = watch::channel(None);
        let Spawned { pid, pidfd, exit } = spawned;
        // The container's earlier misfortunes are not this process's.
        let before = match rule.oom {
            OomRule::Any => 0,
            OomRule::Killed => cgroup.oom_kills(),
        };
        tokio::spawn(async move {
            // A container that is deleted drops the receivers; its streams are closed then.
            tokio::select! {
                outcome = outcome(exit, pumps, cgroup, rule, before) => {
                    tell.send_replace(outcome);
                }
                () = tell.closed() => {}
            }
        });
        Self { pid, pidfd, controls, done, witness: None }
    }

    /// Waits until its witness has told everything.
    pub async fn witnessed(&mut self) {
        if let Some(witness) = self.witness.as_mut().filter(|witness| !witness.is_finished()) {
            witness.finish().await;
        }
    }

    /// The pid on the wire.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }
}

async fn outcome(
    exit: oneshot::Receiver<ExitCode>,
    pumps: Pumps,
    cgroup: Arc<Cgroup>,
    rule: Rule,
    before: u64,
) -> Option<Outcome> {
    let exit_code = exit.await.ok()?;
    if rule.rest == Rest::Lives {
        end(&cgroup).await;
    }
    pumps.finish().await;
    let oom_killed = match rule.oom {
        OomRule::Killed if exit_code != KILLED => false,
        _ => cgroup.oom_kills() > before,
    };
    Some(Outcome { exit_code, oom_killed })
}

/// Kills what is left of a container, and waits until it is gone: who waits for the first process
/// may count on it. What the kernel cannot end in time is left to the container's deletion.
async fn end(cgroup: &Arc<Cgroup>) {
    let killing = cgroup.clone();
    // The folder stays until the container is deleted.
    let _ = blocking(move || killing.kill()).await;
    for _ in 0..END_TRIES {
        let looking = cgroup.clone();
        if !blocking(move || looking.is_populated()).await.unwrap_or_default() {
            return;
        }
        tokio::time::sleep(END_INTERVAL).await;
    }
}
