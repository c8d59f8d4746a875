//! Descriptors: those inherited by number, those sent over sockets, and their hygiene.
#![allow(unsafe_code)]

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::Result;

/// `CLOSE_RANGE_CLOEXEC`, linux/close_range.h.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// Takes ownership of a descriptor that this process was started with.
///
/// # Errors
/// `EBADF` when nothing is open there.
pub fn inherited(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_GETFD only looks the number up.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: the number is open, and the second stage takes each of its inherited numbers once,
    // before anything else in the process could own it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks every descriptor from `first` up to be closed by the next exec.
///
/// # Errors
/// As close_range(2).
pub fn close_on_exec_from(first: libc::c_uint) -> Result<()> {
    // SAFETY: close_range with CLOEXEC changes flags only; no descriptor is closed under its owner.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
    };
    Errno::result(result).map(drop)
}

/// Sends `bytes`, and one descriptor with them.
///
/// # Errors
/// As sendmsg(2).
pub fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<usize> {
    let fds = fd.map(|fd| [fd.as_raw_fd()]);
    let rights = fds.as_ref().map(|fds| ControlMessage::ScmRights(fds));
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        rights.as_slice(),
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// Receives into `buffer`: the number of bytes (0 at the end of the stream), and the descriptor
/// that came with them.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut received = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel has just installed this number for us; nobody else knows it.
                received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok((message.bytes, received))
}

/// A copy of a descriptor of another process.
///
/// # Errors
/// As pidfd_getfd(2): `EBADF` when nothing is open there, `ESRCH` when the process has ended.
pub fn of_process(pidfd: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd> {
    // SAFETY: three numbers by value.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets the runtime poll a descriptor.
///
/// # Errors
/// As epoll_ctl(2).
pub fn polled(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is returned, which closes it after it is deregistered
    // and never replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}
