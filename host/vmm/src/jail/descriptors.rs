//! Closes what the machine does not use. Whatever a parent or a library left open by accident
//! would be a way out.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::unistd::{dup2_stdin, dup2_stdout};

use super::{JailError, call, sys};

/// First descriptor that is no standard stream.
const FIRST: RawFd = 3;

/// Closes every descriptor but those of `keep` and the standard streams. Input and output lead to
/// `/dev/null` unless they are kept: a number that is free would go to whatever is opened next, and
/// be written to by whoever means the stream.
pub fn close_others(keep: &[BorrowedFd<'_>]) -> Result<(), JailError> {
    let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    keep.sort_unstable();
    keep.dedup();
    mute(&keep)?;
    for (first, last) in gaps(&keep) {
        sys::close_range(first, last).map_err(call("close descriptors"))?;
    }
    Ok(())
}

fn mute(keep: &[RawFd]) -> Result<(), JailError> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(call("open /dev/null"))?;
    if !keep.contains(&libc::STDIN_FILENO) {
        dup2_stdin(&null).map_err(call("replace standard input"))?;
    }
    if !keep.contains(&libc::STDOUT_FILENO) {
        dup2_stdout(&null).map_err(call("replace standard output"))?;
    }
    Ok(())
}

/// What lies between the numbers of `keep`, which is sorted.
fn gaps(keep: &[RawFd]) -> Vec<(RawFd, RawFd)> {
    let mut gaps = Vec::new();
    let mut first = FIRST;
    for &fd in keep.iter().filter(|fd| **fd >= FIRST) {
        if fd > first {
            gaps.push((first, fd - 1));
        }
        first = fd.saturating_add(1);
    }
    gaps.push((first, RawFd::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_all_numbers_that_are_not_kept() {
        assert_eq!(gaps(&[]), [(3, RawFd::MAX)]);
        assert_eq!(gaps(&[0, 2]), [(3, RawFd::MAX)]);
        assert_eq!(gaps(&[3, 4]), [(5, RawFd::MAX)]);
        assert_eq!(gaps(&[1, 5, 6, 9]), [(3, 4), (7, 8), (10, RawFd::MAX)]);
    }
}
