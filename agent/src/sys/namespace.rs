//! Namespaces as descriptors: ioctl_ns(2), and pidfds of the caller's children.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::{errno::Errno, sched::CloneFlags, unistd::Pid};

use super::Result;

/// `NS_GET_NSTYPE`, linux/nsfs.h: `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// `CLONE_NEWTIME`, linux/sched.h, which shares its bit with clone(2)'s exit signal: for unshare(2)
/// and setns(2) only.
pub const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// The kind of a namespace, as the flag that makes one.
///
/// # Errors
/// `ENOTTY` for what is no namespace.
pub fn kind(namespace: BorrowedFd<'_>) -> Result<CloneFlags> {
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    Errno::result(result).map(CloneFlags::from_bits_retain)
}

/// Refers to a process that cannot be reaped meanwhile: a child of the caller.
///
/// # Errors
/// As pidfd_open(2).
pub fn pidfd_of(child: Pid) -> Result<OwnedFd> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) };
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
