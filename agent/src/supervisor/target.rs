//! What the actor hands out of a container, so that a job can work on it without the actor.

use std::{os::fd::OwnedFd, sync::Arc};

use nix::unistd::Pid;

use super::{
    assets::Assets,
    listener::{Announcement, Listener},
    process::Spawned,
};
use crate::container::plan::{Inherited, Namespaces};

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
    pub fn announcement(&self, process: &Spawned, status: &'static str) -> Option<Announcement> {
        self.listener.clone().map(|listener| Announcement {
            listener,
            pid: process.pid,
            pidfd: process.pidfd.clone(),
            status,
        })
    }
}

/// A container whose first process is alive. While a job holds it, the container is not deleted: a
/// job that does not end by itself when the container does must not keep it.
#[derive(Debug)]
pub struct Target {
    /// Its first process, in the guest's first pid namespace.
    pub pid: Pid,
    /// The same, for as long as it is held.
    pub first: Arc<OwnedFd>,
    /// Those it has to itself.
    pub namespaces: Namespaces,
    /// What its processes share.
    pub common: Arc<Common>,
    /// Its cgroup and root.
    pub assets: Arc<Assets>,
}
