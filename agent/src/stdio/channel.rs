//! One end of a pipe, or the master of a terminal, without blocking.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::{read, write},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys;

/// An end that the runtime polls.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// Takes an end. Only the agent's own open file becomes non-blocking: the other end is another.
    ///
    /// # Errors
    /// As fcntl(2) and epoll_ctl(2).
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        sys::descriptor::polled(fd, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Waits until there is something to read, or its end.
    ///
    /// # Errors
    /// When the runtime is going.
    pub async fn readable(&self) -> io::Result<()> {
        // What is ready stays so until a read finds nothing.
        self.0.readable().await.map(drop)
    }

    /// Reads what is there, once it [is readable](Self::readable); `None` when there is nothing
    /// more. 0 at the end.
    ///
    /// # Errors
    /// As read(2).
    pub fn read_ready(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(self.0.try_io(Interest::READABLE, |fd| read_end(fd, buffer)))
    }

    /// Reads what is there, whether or not the runtime has heard of it; `None` when there is
    /// nothing now. 0 at the end.
    ///
    /// # Errors
    /// As read(2).
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(read_end(self.0.get_ref(), buffer))
    }

    /// Writes all of it; waits while there is no room.
    ///
    /// # Errors
    /// As write(2): `EPIPE` when nobody will read it.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.async_io(Interest::WRITABLE, |fd| Ok(write(fd, bytes)?)).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// The end itself, for ioctls.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// A terminal that nobody has open any more says EIO, where a pipe says 0.
fn read_end(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    match read(fd, buffer) {
        Err(Errno::EIO) => Ok(0),
        Err(Errno::EINTR) => Err(io::ErrorKind::WouldBlock.into()),
        result => Ok(result?),
    }
}
