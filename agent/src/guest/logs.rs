//! Follows the kernel's log, in which the agent's lines are too, and sends it to the host. The
//! kernel's ring is the only memory: a host that does not read loses the oldest lines, which are
//! counted, and holds nobody up.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
    unistd::read,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio_vsock::VsockStream;

use super::{GuestError, Result, info::uptime, kmsg};
use crate::sys;

const KMSG: &str = "/dev/kmsg";
/// A read of less fails: `PRINTK_MESSAGE_MAX` and the dictionary.
const MAX_RECORD: usize = 8192;
/// At once. Each has a descriptor and a buffer.
const MAX_FOLLOWERS: usize = 8;

static FOLLOWERS: AtomicUsize = AtomicUsize::new(0);

/// A place among the followers.
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> Result<Self> {
        let place = Self;
        if FOLLOWERS.fetch_add(1, Ordering::Relaxed) < MAX_FOLLOWERS {
            Ok(place)
        } else {
            Err(GuestError::Busy("followers of the log"))
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        FOLLOWERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One who reads the log from its oldest record.
#[derive(Debug)]
pub struct Follower {
    log: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
    level: u8,
    once: bool,
    next: Option<u64>,
    _place: Place,
}

fn wall_clock_of_boot() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from).unwrap_or_default();
    now.saturating_sub(uptime())
}

impl Follower {
    /// Opens the log, for records of this level and below. With `once` it ends after what there is.
    ///
    /// # Errors
    /// [`GuestError`]: eight follow at most.
    pub fn new(level: u8, once: bool) -> Result<Self> {
        let place = Place::take()?;
        let open = || -> io::Result<_> {
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(KMSG)?;
            sys::descriptor::polled(file.into(), Interest::READABLE)
        };
        let log = open().map_err(GuestError::call("open", KMSG))?;
        Ok(Self { log, level, once, next: None, _place: place })
    }

    /// Sends until the host closes the stream.
    pub async fn send(mut self, stream: VsockStream) {
        let (mut reader, mut writer) = stream.into_split();
        let mut nothing = [0; 64];
        loop {
            let line = tokio::select! {
                line = self.line() => line,
                // The host has nothing to say: what comes is its end.
                read = reader.read(&mut nothing) => match read {
                    Ok(1..) => continue,
                    Ok(0) | Err(_) => return,
                },
            };
            let Some(line) = line else { break };
            if writer.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
        // A host that has closed its side is gone anyway.
        let _ = writer.shutdown().await;
    }

    /// The next line that is to be sent.
    async fn line(&mut self) -> Option<String> {
        let mut buffer = [0; MAX_RECORD];
        loop {
            let mut read_now = |fd: &std::os::fd::OwnedFd| Ok(read(fd, &mut buffer)?);
            let result = if self.once {
                read_now(self.log.get_ref())
            } else {
                self.log.async_io(Interest::READABLE, read_now).await
            };
            let len = match result {
                Ok(len) => len,
                // Overwritten before it was read: the next read takes the oldest there is.
                Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => continue,
                Err(_) => return None,
            };
            let text = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned();
            if let Some(line) = self.take(&text) {
                return Some(line);
            }
        }
    }

    fn take(&mut self, text: &str) -> Option<String> {
        let record = kmsg::Record::parse(text)?;
        let started = wall_clock_of_boot();
        let lost = self.next.map_or(0, |next| record.sequence.saturating_sub(next));
        self.next = Some(record.sequence + 1);
        let line = (record.level <= self.level).then(|| record.line(started));
        if lost == 0 {
            return line;
        }
        let lost = kmsg::lost(lost, started, record.time);
        Some(lost + &line.unwrap_or_default())
    }
}
