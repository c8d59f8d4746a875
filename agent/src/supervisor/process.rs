//! One process that was started: how to reach it, and what became of it.

use std::{os::fd::OwnedFd, sync::Arc};

use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use super::{reaper::ExitCode, witness::Witness};
use crate::{
    cgroup::Cgroup,
    stdio::{Controls, Pumps},
};

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

const KILLED: ExitCode = 128 + libc::SIGKILL.cast_unsigned();

impl Process {
    /// Takes over a process. Its outcome is known once it has ended and its output is delivered.
    #[must_use]
    pub fn watch(
        spawned: Spawned,
        pumps: Pumps,
        controls: Controls,
        cgroup: Arc<Cgroup>,
        rule: OomRule,
    ) -> Self {
        let (tell, done) = watch::channel(None);
        let Spawned { pid, pidfd, exit } = spawned;
        // The container's earlier misfortunes are not this process's.
        let before = match rule {
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
    rule: OomRule,
    before: u64,
) -> Option<Outcome> {
    let exit_code = exit.await.ok()?;
    pumps.finish().await;
    let oom_killed = match rule {
        OomRule::Killed if exit_code != KILLED => false,
        _ => cgroup.oom_kills() > before,
    };
    Some(Outcome { exit_code, oom_killed })
}
