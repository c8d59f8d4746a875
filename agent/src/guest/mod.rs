//! The guest as a whole: its names, files, clock, processors, settings, and what it tells of
//! itself. Knows nothing of containers.

mod clock;
mod cpus;
mod entropy;
mod files;
mod info;
mod kmsg;
mod logs;
mod metrics;
mod names;
mod sysctl;

use std::{io, time::Duration};

use husk_protocols::error::ErrorKind;
use nix::errno::Errno;

pub use clock::correct;
pub use cpus::{Cpus, set_online};
pub use entropy::reseed;
pub use files::{FOLDER as FILES_FOLDER, HostFile};
pub use info::info;
pub use logs::Follower;
pub use metrics::{Exposition, Kind, expose};
pub use names::{Dns, HostsEntry, check_hostname, hosts, set_hostname};
pub use sysctl::Sysctl;

use crate::failure::errno_kind;

/// Why the guest is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// What was asked makes no sense here.
    #[error("{what}: {reason}")]
    Invalid {
        /// The field, or its value.
        what: String,
        /// In which way.
        reason: String,
    },
    /// Too many at once.
    #[error("{0}: too many at once")]
    Busy(&'static str),
    /// The kernel refused.
    #[error("{operation} {object}")]
    Call {
        /// What was done.
        operation: &'static str,
        /// To what.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, GuestError>;

impl GuestError {
    fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    fn call<E: Into<io::Error>>(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Call { operation, object: object.into(), source: source.into() }
    }

    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Busy(_) => ErrorKind::Exhausted,
            Self::Call { source, .. } => match source.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EINVAL) => ErrorKind::Invalid,
                Some(errno) => errno_kind(errno),
                None => ErrorKind::Internal,
            },
        }
    }
}

/// What a message shows of a text that came from elsewhere.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// What the host says once, before the first container.
#[derive(Debug)]
pub struct Setup {
    /// The guest's own; empty to leave it.
    pub hostname: String,
    /// For bind mounts.
    pub files: Vec<HostFile>,
    /// Since 1970; zero to leave the clock.
    pub wall_clock: Duration,
    /// The guest's.
    pub sysctls: Vec<Sysctl>,
}

/// Carries a setup out. Blocks.
///
/// # Errors
/// [`GuestError`]; what came before the failure stays.
pub fn set_up(setup: &Setup) -> Result<()> {
    if !setup.hostname.is_empty() {
        set_hostname(&setup.hostname)?;
    }
    if !setup.wall_clock.is_zero() {
        clock::set(setup.wall_clock)?;
    }
    setup.sysctls.iter().try_for_each(Sysctl::apply)?;
    setup.files.iter().try_for_each(HostFile::write)
}
