//! Why a sandbox did not come up or did not stay up, and what the client is told.

use std::io;
use std::time::Duration;

use husk_protocols::error::ErrorKind;

use crate::engine::error::{EXIT_HUSK, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Error};
use crate::guest::{AgentError, ConnectError};
use crate::hypervisor::{ChooseError, Diagnosis, UnknownHypervisor, VmError};

/// Why a sandbox did not come up or did not stay up.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The VM process.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// There is nothing to run VMs with.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// `--hypervisor` of a record that somebody edited.
    #[error(transparent)]
    Word(#[from] UnknownHypervisor),
    /// The VM ran, and then did not.
    #[error("{0}")]
    Died(Box<Diagnosis>),
    /// The VM runs, and its agent does not announce itself.
    #[error("the guest did not answer within {} s: {diagnosis}", deadline.as_secs())]
    Silent {
        /// How long it was waited for.
        deadline: Duration,
        /// How far it came.
        diagnosis: Box<Diagnosis>,
    },
    /// Somebody answered who is not our agent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The agent refused.
    #[error("{operation}")]
    Agent {
        /// What was asked of it.
        operation: &'static str,
        /// Its answer.
        #[source]
        source: AgentError,
    },
    /// A socket or pipe of our own.
    #[error("{operation}")]
    Io {
        /// What for.
        operation: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// State, images, disks.
    #[error(transparent)]
    Engine(#[from] Error),
    /// It went while something was asked of it.
    #[error("the container has ended")]
    Ended,
    /// `stop`, `kill` or a signal came before the container ran.
    #[error("stopped before it ran")]
    Aborted,
}

impl SandboxError {
    /// docker's exit codes for a container that did not start.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Agent { source, .. } => match source.kind {
                ErrorKind::CommandNotFound => EXIT_NOT_FOUND,
                ErrorKind::CommandNotExecutable => EXIT_NOT_EXECUTABLE,
                _ => EXIT_HUSK,
            },
            Self::Engine(error) => error.exit_code(),
            _ => EXIT_HUSK,
        }
    }

    /// Whether a VM that is going down could be behind it.
    pub fn may_be_the_vms(&self) -> bool {
        match self {
            Self::Agent { source, .. } => source.kind == ErrorKind::Internal,
            Self::Silent { .. } | Self::Connect(_) | Self::Io { .. } => true,
            _ => false,
        }
    }

    pub fn agent(operation: &'static str) -> impl FnOnce(AgentError) -> Self {
        move |source| Self::Agent { operation, source }
    }

    pub fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}
