//! What the supervisor answers when it cannot do what it is asked.

use std::io;

use husk_protocols::{
    error::ErrorKind,
    id::{ContainerId, ExecId},
};
use nix::errno::Errno;

use super::{ProcessKey, State};
use crate::{
    archive::ArchiveError,
    cgroup::CgroupError,
    container::{hooks::HookError, link::Failure},
    failure::errno_kind,
    guest::GuestError,
    spec::SpecError,
    stdio::StreamError,
    storage::StorageError,
};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The spec cannot be honoured.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The root file system.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The guest itself.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A copy of files.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A stdio stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The second stage said why.
    #[error("{}", .0.message)]
    Stage(Failure),
    /// A hook in the guest's namespaces.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The second stage ended without a word.
    #[error("the process ended while it was set up")]
    StageEnded,
    /// No such container.
    #[error("no such container: {0}")]
    NoContainer(ContainerId),
    /// No such exec.
    #[error("no such exec in {0}: {1}")]
    NoExec(ContainerId, ExecId),
    /// The id is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// The container is somewhere else in its life.
    #[error("container {id} is {state}")]
    WrongState {
        /// Which.
        id: ContainerId,
        /// Where it is.
        state: State,
    },
    /// Two who want it to stand, or one who wants it to go on too early.
    #[error("container {0} is being paused or resumed")]
    Changing(ContainerId),
    /// Signals go to what runs.
    #[error("container not running")]
    NotRunning,
    /// The exec has ended.
    #[error("process not running")]
    ProcessEnded,
    /// The container has joined the mount namespace of another.
    #[error("the container has no root of its own: its mount namespace is another's")]
    NoRoot,
    /// The process has no terminal.
    #[error("the process has no terminal")]
    NoTerminal,
    /// Nobody takes the listener of a seccomp filter.
    #[error("linux.seccomp.listenerPath: connect to {}", path.display())]
    Listener {
        /// Where.
        path: std::path::PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A step that has no object.
    #[error("{step}")]
    Step {
        /// Which.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The sandbox is being shut down.
    #[error("the sandbox is shutting down")]
    Gone,
}

impl SupervisorError {
    /// Names the step that a call was for.
    pub fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Step { step, source: source.into() }
    }

    /// The process that was named is not there.
    #[must_use]
    pub fn no_process(key: &ProcessKey) -> Self {
        match &key.exec {
            Some(exec) => Self::NoExec(key.container.clone(), exec.clone()),
            None => Self::NoContainer(key.container.clone()),
        }
    }

    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec(error) => error.kind(),
            Self::Storage(error) => error.kind(),
            Self::Cgroup(error) => error.kind(),
            Self::Guest(error) => error.kind(),
            Self::Archive(error) => error.kind(),
            Self::Stage(failure) => failure.kind,
            Self::Hook(error) => error.kind(),
            Self::Stream(_) | Self::Listener { .. } => ErrorKind::Invalid,
            Self::NoContainer(_) | Self::NoExec(..) => ErrorKind::NotFound,
            Self::Exists(_) => ErrorKind::AlreadyExists,
            Self::WrongState { .. }
            | Self::Changing(_)
            | Self::NotRunning
            | Self::ProcessEnded
            | Self::NoTerminal
            | Self::NoRoot
            | Self::Gone => ErrorKind::WrongState,
            Self::Step { source, .. } => source.raw_os_error().map_or(ErrorKind::Internal, |raw| {
                match Errno::from_raw(raw) {
                    Errno::EINVAL => ErrorKind::Invalid,
                    errno => errno_kind(errno),
                }
            }),
            Self::StageEnded => ErrorKind::Internal,
        }
    }
}

impl From<Failure> for SupervisorError {
    fn from(failure: Failure) -> Self {
        Self::Stage(failure)
    }
}
