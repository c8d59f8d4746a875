//! What can go wrong in the second stage, and what the host is told of it.

use std::{io, path::PathBuf};

use husk_protocols::error::ErrorKind;
use nix::errno::Errno;

use super::{command::CommandError, hooks::HookError, identity::UserError};
use crate::{failure::errno_kind, mount::MountError};

/// Why a process could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The link to the agent broke.
    #[error("talk to the agent")]
    Link(#[source] io::Error),
    /// A step that has no object.
    #[error("{step}")]
    Step {
        /// Which.
        step: &'static str,
        /// The result of the call.
        #[source]
        source: Errno,
    },
    /// A step on a file of the container.
    #[error("{operation} {}", path.display())]
    Path {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// The result of the call.
        #[source]
        source: Errno,
    },
    /// A mount of the spec.
    #[error("mount {}", destination.display())]
    Mount {
        /// Where.
        destination: PathBuf,
        /// Why not.
        #[source]
        source: MountError,
    },
    /// The image makes a part of the spec impossible.
    #[error("{field}: {reason}")]
    Refused {
        /// The part.
        field: String,
        /// Why.
        reason: &'static str,
    },
    /// The guest kernel was built without what the spec asks for.
    #[error("{field} needs {option}, which the guest kernel does not have")]
    Kernel {
        /// The part of the spec.
        field: &'static str,
        /// The kernel's option.
        option: &'static str,
    },
    /// `process.cwd`.
    #[error("chdir to cwd {}: {}", path.display(), source.desc().to_lowercase())]
    WorkingDirectory {
        /// The folder.
        path: PathBuf,
        /// Already in the message, in the words that others look for.
        source: Errno,
    },
    /// `process.user`.
    #[error(transparent)]
    User(#[from] UserError),
    /// `process.args`.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// `hooks.createContainer` and `hooks.startContainer`.
    #[error(transparent)]
    Hook(#[from] HookError),
}

impl StageError {
    /// Names the step that a call was for.
    pub fn step(step: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Step { step, source }
    }

    /// Names the operation and the file that a call was for.
    pub fn path(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Path { operation, path: path.into(), source }
    }

    /// Names the mount that failed.
    pub fn mount(destination: impl Into<PathBuf>) -> impl FnOnce(MountError) -> Self {
        move |source| Self::Mount { destination: destination.into(), source }
    }

    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Link(_) => ErrorKind::Internal,
            Self::Step { source, .. } | Self::Path { source, .. } => errno_kind(*source),
            Self::Mount { source, .. } => match source {
                MountError::NoFileSystem { .. } | MountError::NotMapped => ErrorKind::Unsupported,
                MountError::Option { .. }
                | MountError::Source { .. }
                | MountError::NoMountPoint => ErrorKind::Invalid,
                MountError::Make { source, .. } | MountError::Step { source, .. } => {
                    errno_kind(*source)
                }
            },
            Self::Refused { .. } | Self::WorkingDirectory { .. } | Self::User(_) => {
                ErrorKind::Invalid
            }
            Self::Kernel { .. } => ErrorKind::Unsupported,
            Self::Command(error) => error.kind(),
            Self::Hook(error) => error.kind(),
        }
    }
}
