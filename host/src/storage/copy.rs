//! A copy that keeps holes, and shares blocks where the file system can.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::unistd::{Whence, lseek};

const BUFFER: usize = 64 << 10;

/// Makes `to`, which is empty, a copy of `from`: same length, same bytes, and holes where the
/// original has them. Blocks on the disk.
pub fn sparse(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at, length)? {
        copy_range(from, to, start, end)?;
        at = end;
    }
    Ok(())
}

/// The next piece at or after `at` that is not a hole. Source: lseek(2), `SEEK_DATA`.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match lseek(file, offset(at)?, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    let unsigned = |offset: i64| u64::try_from(offset).map_err(io::Error::other);
    Ok(Some((unsigned(start)?, unsigned(end)?.min(length))))
}

/// Copies in the kernel where it can: copy_file_range(2) shares blocks on btrfs and XFS.
fn copy_range(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    while at < end {
        let (mut from_at, mut to_at) = (offset(at)?, offset(at)?);
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => at += u64::try_from(count).map_err(io::Error::other)?,
            Err(Errno::EINTR) => {}
            Err(Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                return copy_by_hand(from, to, at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
        from.read_exact_at(&mut buffer[..left], at)?;
        to.write_all_at(&buffer[..left], at)?;
        at += u64::try_from(left).map_err(io::Error::other)?;
    }
    Ok(())
}

fn offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with data at both ends and in the middle of a hole.
    fn holey() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        for at in [0, 5 << 20, (10 << 20) - 4096] {
            file.write_all_at(&[7; 4096], at).unwrap();
        }
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn copy_has_the_same_bytes_and_stays_sparse() {
        let from = holey();
        let to = tempfile::tempfile().unwrap();
        sparse(&from, &to).unwrap();
        assert!(content(&from) == content(&to));
        assert!(super::super::allocated_bytes(&to).unwrap() < 1 << 20);
    }

    #[test]
    fn copy_by_hand_has_the_same_bytes() {
        let from = holey();
        let to = tempfile::tempfile().unwrap();
        copy_by_hand(&from, &to, 0, 10 << 20).unwrap();
        assert!(content(&from) == content(&to));
    }

    #[test]
    fn a_file_of_nothing_but_hole_is_copied() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(1 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        sparse(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 1 << 20);
    }
}
