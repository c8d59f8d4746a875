//! Where the guest's console goes: a pipe that is never waited for. What does not fit is lost and
//! counted, so that a guest that floods its console neither stands still nor fills memory.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The writing end of the console.
#[derive(Debug)]
pub struct Sink {
    pipe: Option<OwnedFd>,
    lost: Arc<AtomicU64>,
}

impl Sink {
    /// A sink that writes to `pipe`, which no longer blocks from then on.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn new(pipe: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
            fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(Self { pipe, lost: Arc::default() })
    }

    /// Bytes that were lost, now and later.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }
}

impl Write for Sink {
    /// Takes everything: there is nobody in the guest who could try again.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = match &self.pipe {
            // Full, or the reader is gone: both are the host's affair and none of the guest's.
            Some(pipe) => nix::unistd::write(pipe, data).unwrap_or(0),
            None => 0,
        };
        let lost = data.len().saturating_sub(written);
        self.lost.fetch_add(lost as u64, Ordering::Relaxed);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
