//! The only place that waits for processes: PID 1 takes every child's status once, and each
//! orphan's.

use std::{io, os::fd::OwnedFd};

use nix::{
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd, siginfo},
    },
    unistd::{Pid, read},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys::{self, process::ExitCode};

/// Hears of children that have ended.
#[derive(Debug)]
pub struct Reaper(AsyncFd<OwnedFd>);

impl Reaper {
    /// Blocks SIGCHLD for the calling thread and all it starts: to be called before any other
    /// thread is there, in a runtime.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn new() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = OwnedFd::from(SignalFd::with_flags(&signals, flags)?);
        sys::descriptor::polled(signals, Interest::READABLE).map(Self)
    }

    /// Waits until a child may have ended.
    pub async fn wait(&self) {
        let Ok(mut ready) = self.0.readable().await else { return };
        // One signal can stand for many children: all are drained, then all children are asked.
        let mut signals = [0; 4 * size_of::<siginfo>()];
        while read(self.0.get_ref(), &mut signals).is_ok_and(|len| len > 0) {}
        ready.clear_ready();
    }

    /// Takes the status of one child that has ended, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<(Pid, ExitCode)> {
        // Without any child there is none that has ended.
        sys::process::reap().ok().flatten()
    }
}
