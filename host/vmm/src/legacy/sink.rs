//! Where the guest's console goes: a pipe that is never waited for. What does not fit is lost and
//! counted, so that a guest that floods its console neither stands still nor fills memory.
//!
//! ```text
//! Idle --byte: goes at once--> Holding --line, much, timer: go together--> Holding
//!                                 '------ timer, nothing came -----------> Idle
//! ```
//!
//! The guest sends single bytes. To write each by itself would be a system call, and a turn of the
//! reader, for every one of them.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// No byte waits longer for others to go with: too short for people to see.
const LONGEST_WAIT: Duration = Duration::from_millis(10);
/// So many bytes wait for no others. A pipe takes them all or not at all: PIPE_BUF, pipe(7).
const MOST_HELD: usize = 1024;

/// The writing end of the console.
#[derive(Debug)]
pub struct Sink {
    pipe: Option<OwnedFd>,
    lost: Arc<AtomicU64>,
    /// What waits to go together.
    held: Vec<u8>,
    holding: bool,
    timer: Arc<TimerFd>,
}

impl Sink {
    /// A sink that writes to `pipe`, which no longer blocks from then on.
    ///
    /// # Errors
    /// Those of fcntl(2) and timerfd_create(2).
    pub fn new(pipe: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
            fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = Arc::new(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        Ok(Self { pipe, lost: Arc::default(), held: Vec::new(), holding: false, timer })
    }

    /// Bytes that were lost, now and later.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Readable when [`Self::settle`] is due.
    pub fn timer(&self) -> Arc<TimerFd> {
        Arc::clone(&self.timer)
    }

    /// What was held goes, and more is held only if there was some.
    pub fn settle(&mut self) {
        // EAGAIN: it was set again meanwhile.
        let _ = self.timer.wait();
        let go_on = !self.held.is_empty();
        self.pass_on();
        self.holding = go_on && self.set_timer().is_ok();
    }

    /// What is held goes now.
    pub fn pass_on(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let written = match &self.pipe {
            // Full, or the reader is gone: both are the host's affair and none of the guest's.
            Some(pipe) => nix::unistd::write(pipe, &self.held).unwrap_or(0),
            None => 0,
        };
        let lost = self.held.len().saturating_sub(written);
        self.lost.fetch_add(lost as u64, Ordering::Relaxed);
        self.held.clear();
    }

    fn set_timer(&self) -> nix::Result<()> {
        let once = Expiration::OneShot(TimeSpec::from_duration(LONGEST_WAIT));
        self.timer.set(once, TimerSetTimeFlags::empty())
    }
}

impl Write for Sink {
    /// Takes everything: there is nobody in the guest who could try again.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(data);
        if self.pipe.is_none() {
            self.pass_on();
        } else if !self.holding {
            self.pass_on();
            // Without a timer nothing is held.
            self.holding = self.set_timer().is_ok();
        } else if data.ends_with(b"\n") || self.held.len() >= MOST_HELD {
            self.pass_on();
        }
        Ok(data.len())
    }

    /// Asked for after each byte. See [`Self::pass_on`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing that the guest sent is lost by the end of its machine.
impl Drop for Sink {
    fn drop(&mut self) {
        self.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    fn sink() -> (Sink, OwnedFd) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let flags = FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        fcntl(&reader, flags).unwrap();
        (Sink::new(Some(writer)).unwrap(), reader)
    }

    fn arrived(reader: &OwnedFd) -> String {
        let mut text = [0; 4096];
        let len = nix::unistd::read(reader, &mut text).unwrap_or(0);
        String::from_utf8_lossy(&text[..len]).into_owned()
    }

    fn send(sink: &mut Sink, text: &str) {
        for byte in text.as_bytes() {
            sink.write_all(&[*byte]).unwrap();
        }
    }

    fn is_due(sink: &Sink, within_ms: u16) -> bool {
        let mut timer = [PollFd::new(sink.timer.as_fd(), PollFlags::POLLIN)];
        poll(&mut timer, within_ms).unwrap() == 1
    }

    #[test]
    fn first_byte_goes_at_once_and_the_rest_of_its_line_together() {
        let (mut sink, reader) = sink();
        send(&mut sink, "h");
        assert_eq!(arrived(&reader), "h");
        send(&mut sink, "ello");
        assert_eq!(arrived(&reader), "");
        send(&mut sink, "\n");
        assert_eq!(arrived(&reader), "ello\n");
    }

    #[test]
    fn line_without_an_end_goes_when_its_time_is_up() {
        let (mut sink, reader) = sink();
        send(&mut sink, "login: ");
        assert_eq!(arrived(&reader), "l");
        assert!(is_due(&sink, 10_000));
        sink.settle();
        assert_eq!(arrived(&reader), "ogin: ");
        // Held on to, in case that more comes.
        send(&mut sink, "x");
        assert_eq!(arrived(&reader), "");
        for _ in 0..2 {
            assert!(is_due(&sink, 10_000));
            sink.settle();
        }
        assert_eq!(arrived(&reader), "x");
        assert!(!is_due(&sink, 50), "a console that is quiet wakes nobody");
        send(&mut sink, "y");
        assert_eq!(arrived(&reader), "y");
    }

    #[test]
    fn what_is_held_is_bounded_and_goes_with_the_sink() {
        let (mut sink, reader) = sink();
        send(&mut sink, &"x".repeat(1 + MOST_HELD));
        assert_eq!(arrived(&reader).len(), 1 + MOST_HELD);
        send(&mut sink, "the end");
        assert_eq!(arrived(&reader), "");
        drop(sink);
        assert_eq!(arrived(&reader), "the end");
    }
}
