//! Messages with descriptors over Unix sockets. unix(7), `SCM_RIGHTS`.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most descriptors that travel with one message: stdin, stdout, stderr.
pub const MAX_FDS: usize = 3;

/// Sends `bytes` (at least one) and `fds` with its first byte. Returns how many bytes went out.
///
/// # Errors
/// sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let parts = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None)?)
}

/// Receives at most `buffer.len()` bytes and the descriptors that came with them, close-on-exec.
/// 0 bytes is the end.
///
/// # Errors
/// recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just installed these descriptors for this message; nothing
            // else knows their numbers yet.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

/// Makes a descriptor something to await: readable once it is, a pidfd once its process has
/// ended. Needs a tokio runtime.
///
/// # Errors
/// epoll_ctl(2).
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is closed by nobody else, and names the same descriptor for as
    // long as the AsyncFd owns it; nothing here takes it out or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptor_arrives_open_and_usable() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        assert_eq!(send(a.as_fd(), b"x", &[far.as_fd()]).unwrap(), 1);
        drop(far);
        let mut buffer = [0; 8];
        let (count, mut fds) = receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!((count, fds.len()), (1, 1));
        let mut far = UnixStream::from(fds.remove(0));
        near.write_all(b"hello").unwrap();
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
