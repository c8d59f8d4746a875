//! What the engine reports, and with which exit code.

use std::io;
use std::path::PathBuf;

use crate::image::ImageError;
use crate::storage::StorageError;

/// husk itself failed.
pub const EXIT_HUSK: u8 = 125;
/// The command was found and cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Why an operation on containers did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a `HUSK_*` variable nor a home.
    #[error("find husk's folders: {variable} is not set (set HUSK_DATA_DIR and HUSK_RUNTIME_DIR)")]
    NoHome {
        /// What was looked for last.
        variable: &'static str,
    },
    /// A folder must not depend on where the command was typed.
    #[error("{variable}={}: not an absolute path", dir.display())]
    RelativeDir {
        /// Which variable.
        variable: &'static str,
        /// What it says.
        dir: PathBuf,
    },
    /// The configuration file.
    #[error("{}, line {line}: {message}", file.display())]
    Settings {
        /// Which file.
        file: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong, in one line.
        message: String,
    },
    /// The guest was never built, or is elsewhere.
    #[error("no guest image in {} (build it with make rootfs, or set HUSK_GUEST_DIR)", tried.display())]
    NoGuestImage {
        /// The first folder that was looked into.
        tried: PathBuf,
    },
    /// No container is called so.
    #[error("no such container: {0}")]
    NoSuchContainer(String),
    /// More than one id starts so.
    #[error("{0}: more than one container id starts with this")]
    Ambiguous(String),
    /// Names are unique.
    #[error(
        "the name {name} is in use by container {id} (remove it with husk rm, or choose another name)"
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Its owner, short.
        id: String,
    },
    /// The container is not in the state that the operation needs.
    #[error("container {name} is {phase}{hint}")]
    WrongPhase {
        /// Which container.
        name: String,
        /// What it is.
        phase: &'static str,
        /// What to do about it, in brackets, or nothing.
        hint: &'static str,
    },
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A file of the state.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the state that is not what was written there.
    #[error("read {}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The image store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The writable layer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What the monitor could not do; the chain is already in the text.
    #[error("{message}")]
    Monitor {
        /// 125 to 127.
        exit_code: u8,
        /// One line.
        message: String,
    },
    /// The monitor ended without an answer.
    #[error("the monitor of container {0} was killed")]
    MonitorGone(String),
    /// The connection to the monitor.
    #[error("talk to the monitor of container {name}")]
    Control {
        /// Which container.
        name: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The exit code of the command that ran into it. docker's: 125 to 127.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Monitor { exit_code, .. } => *exit_code,
            _ => EXIT_HUSK,
        }
    }

    pub(super) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

/// An error and its causes in one line, outermost first.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // `#[error(transparent)]` and `#[from]` would say the same thing twice.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line.replace(['\n', '\r'], " ")
}
