//! What errors have in common: one line for people, a kind for the host.

use std::error::Error;

use husk_protocols::error::ErrorKind;
use nix::errno::Errno;

/// The messages of an error and its sources, with colons between.
#[must_use]
pub fn line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}

/// What a failed call says of itself.
#[must_use]
pub fn errno_kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::ENOMEM
        | Errno::ENOSPC
        | Errno::EMFILE
        | Errno::ENFILE
        | Errno::EAGAIN
        | Errno::EDQUOT
        | Errno::EUSERS => ErrorKind::Exhausted,
        _ => ErrorKind::Internal,
    }
}
