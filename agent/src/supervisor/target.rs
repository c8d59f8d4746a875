//! What the actor hands out of a container, so that a job can work on it without the actor.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use nix::unistd::Pid;

use super::{
    Result, SupervisorError,
    assets::Assets,
    listener::{Announcement, Listener},
    process::Spawned,
};
use crate::{
    cgroup::stats::Stats,
    container::plan::{Inherited, Namespaces, Status},
    sys,
};

/// What all processes of a container share beside its assets.
#[derive(Debug)]
pub struct Common {
    /// What an exec has from its container.
    pub inherited: Inherited,
    /// Who decides about its system calls.
    pub listener: Option<Arc<Listener>>,
}

impl Common {
    /// What the listener will be told of a process, if there is one.
    #[must_use]
    pub fn announcement(&self, process: &Spawned, status: Status) -> Option<Announcement> {
        self.listener.clone().map(|listener| Announcement {
            listener,
            pid: process.pid,
            pidfd: process.pidfd.clone(),
            status,
        })
    }
}

/// A container, in whichever state it is. While a job holds it, the container is not deleted: a job
/// that does not end by itself when the container does must not keep it.
#[derive(Debug)]
pub struct Target {
    /// Its first process, in the guest's first pid namespace; another's once that has ended.
    pub pid: Pid,
    /// The same, and never another.
    pub first: Arc<OwnedFd>,
    /// Those it has to itself.
    pub namespaces: Namespaces,
    /// What its processes share.
    pub common: Arc<Common>,
    /// Its cgroup and root.
    pub assets: Arc<Assets>,
}

impl Target {
    /// Finds out that the first process is there, and that its pid has been its own so far.
    ///
    /// # Errors
    /// [`SupervisorError::NotRunning`].
    pub fn alive(&self) -> Result<()> {
        sys::process::send_signal(self.first.as_fd(), 0).map_err(|_| SupervisorError::NotRunning)
    }

    /// What it has used so far. Blocks.
    ///
    /// # Errors
    /// [`SupervisorError`], also when the first process ends meanwhile.
    pub fn stats(&self) -> Result<Stats> {
        let stats = self.assets.cgroup.stats(Some(self.pid));
        self.alive()?;
        Ok(stats?)
    }
}
