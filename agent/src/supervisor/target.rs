//! What the actor hands out of a container, so that a job can work on it without the actor.

use std::{os::fd::OwnedFd, sync::Arc};

use nix::unistd::Pid;

use super::assets::Assets;
use crate::container::plan::Namespaces;

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
    /// Its cgroup and root.
    pub assets: Arc<Assets>,
}
