//! A handle on a device in another process: commands become messages with descriptors, and the
//! guest's connections come back the same way. The bytes of streams pass no relay: each end of a
//! stream's socket is held by who uses it.
//!
//! ```text
//! VsockHandle --> mailbox --> relay --Connect+fd, Listen, Taken, Unlisten--> device
//! VsockListener <-- sink <--- relay <--Listening, Offer+fd------------------ device
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, mpsc};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::Epoll;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use serde::{Deserialize, Serialize};

use super::handle::{Command, Mailbox, Offers, VsockHandle};
use super::muxer::Muxer;
use super::streams::Streams;
use crate::channel::{Channel, ChannelError, Received};

/// Reports that are heard before the device is told what waits: a guest can bring about as many as
/// it likes.
const MAX_HEARD: usize = 64;

/// What the device is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Order {
    /// Connect the stream that comes with it.
    Connect {
        /// Port in the guest.
        guest_port: u32,
    },
    /// Take connections of the guest.
    Listen {
        /// Port on the host.
        host_port: u32,
        /// How many of them may wait to be taken.
        backlog: usize,
    },
    /// One of those that wait was taken.
    Taken {
        /// Port on the host.
        host_port: u32,
    },
    /// Take no more of them.
    Unlisten {
        /// Port on the host.
        host_port: u32,
    },
}

/// What the device tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Report {
    /// The answer to [`Order::Listen`].
    Listening {
        /// Port on the host.
        host_port: u32,
        /// Whether nobody listened there.
        free: bool,
    },
    /// A connection of the guest, by the stream that comes with it.
    Offer {
        /// Port on the host.
        host_port: u32,
    },
}

/// Why a relay ends other than by its peer's end.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The peer makes no sense, or went in the midst of something.
    #[error("talk about the streams of a vsock device")]
    Channel(#[from] ChannelError),
    /// A stream where there should be none, or none where there should be one.
    #[error("message about a vsock stream that has none, or one too many")]
    Stream,
    /// Of poll(2).
    #[error("wait for the streams of a vsock device")]
    Wait(#[source] Errno),
}

/// A handle on the device at the other end of `channel`. A thread relays until the device's process
/// is gone; handles then refuse, and listeners end.
///
/// # Errors
/// Those of eventfd(2) and of a thread's start.
pub fn serve(channel: Channel) -> io::Result<VsockHandle> {
    let (handle, mailbox) = Mailbox::new()?;
    let mut relay =
        Relay { channel, mailbox, sinks: HashMap::new(), asked: HashMap::new(), held: None };
    std::thread::Builder::new().name("vsock-relay".into()).spawn(move || {
        if let Err(error) = relay.run() {
            tracing::warn!(error = &error as &dyn std::error::Error, "vsock relay ended");
        }
    })?;
    Ok(handle)
}

#[derive(Debug)]
struct Relay {
    channel: Channel,
    mailbox: Mailbox,
    /// Who gets the guest's connections, by port.
    sinks: HashMap<u32, Box<dyn Offers>>,
    /// Ports that the device was asked to listen to.
    asked: HashMap<u32, (Box<dyn Offers>, SyncSender<bool>)>,
    /// What the device has no room for; nothing is taken from the mailbox meanwhile.
    held: Option<(Order, Option<OwnedFd>)>,
}

impl Relay {
    fn run(&mut self) -> Result<(), RelayError> {
        loop {
            self.wait()?;
            if !self.hear()? {
                return Ok(());
            }
            match self.tell() {
                // It went after it was heard.
                Err(RelayError::Channel(ChannelError::Send(Errno::EPIPE))) => return Ok(()),
                told => told?,
            }
        }
    }

    fn wait(&self) -> Result<(), RelayError> {
        let room = if self.held.is_some() { PollFlags::POLLOUT } else { PollFlags::empty() };
        let channel = PollFd::new(self.channel.as_fd(), PollFlags::POLLIN | room);
        let mailbox = PollFd::new(self.mailbox.as_fd(), PollFlags::POLLIN);
        let mut all = [channel, mailbox];
        let watched = if self.held.is_some() { &mut all[..1] } else { &mut all[..] };
        match poll(watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(RelayError::Wait(error)),
        }
    }

    /// Hears what the device has to say, or the first of it. False when the device is gone.
    fn hear(&mut self) -> Result<bool, RelayError> {
        for _ in 0..MAX_HEARD {
            match self.channel.receive()? {
                Received::Nothing => return Ok(true),
                Received::End => return Ok(false),
                Received::Message(Report::Listening { host_port, free }, None) => {
                    self.on_listening(host_port, free);
                }
                Received::Message(Report::Offer { host_port }, Some(stream)) => {
                    check_stream(&stream)?;
                    // Dropped when nobody listens any more. The device itself keeps to the backlog.
                    if let Some(sink) = self.sinks.get(&host_port) {
                        sink.offer(stream.into());
                    }
                }
                Received::Stripped(Report::Offer { host_port }) => {
                    tracing::warn!(host_port, "no place for a stream of the guest");
                }
                Received::Message(..) | Received::Stripped(_) => return Err(RelayError::Stream),
            }
        }
        Ok(true)
    }

    fn on_listening(&mut self, host_port: u32, free: bool) {
        let Some((sink, reply)) = self.asked.remove(&host_port) else { return };
        if free {
            self.sinks.insert(host_port, sink);
        }
        // Who asked waits for this.
        let _ = reply.send(free);
    }

    fn tell(&mut self) -> Result<(), RelayError> {
        if let Some((order, stream)) = self.held.take() {
            self.send(order, stream)?;
        }
        self.mailbox.clear();
        while self.held.is_none()
            && let Some(command) = self.mailbox.next()
        {
            self.execute(command)?;
        }
        Ok(())
    }

    fn execute(&mut self, command: Command) -> Result<(), RelayError> {
        match command {
            Command::Connect { guest_port, stream } => {
                self.send(Order::Connect { guest_port }, Some(stream.into()))
            }
            Command::Listen { host_port, backlog, sink, reply } => {
                if self.asked.contains_key(&host_port) {
                    // Who asked waits for this.
                    let _ = reply.send(false);
                    return Ok(());
                }
                self.asked.insert(host_port, (sink, reply));
                self.send(Order::Listen { host_port, backlog }, None)
            }
            Command::Taken { host_port } => self.send(Order::Taken { host_port }, None),
            Command::Unlisten { host_port } => {
                self.sinks.remove(&host_port);
                self.send(Order::Unlisten { host_port }, None)
            }
        }
    }

    fn send(&mut self, order: Order, stream: Option<OwnedFd>) -> Result<(), RelayError> {
        match self.channel.send(&order, stream.as_ref().map(AsFd::as_fd)) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.held = Some((order, stream));
                Ok(())
            }
            // Too many descriptors are on their way to somebody, unix(7): the stream is dropped,
            // which tells its owner.
            Err(ChannelError::Send(Errno::ETOOMANYREFS)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A VMM that was taken over may offer what is no stream, such as an end of a pipe of ours that
/// would then stay open.
fn check_stream(stream: &OwnedFd) -> Result<(), RelayError> {
    match getsockopt(stream, sockopt::SockType) {
        Ok(SockType::Stream) => Ok(()),
        _ => Err(RelayError::Stream),
    }
}

/// The device's end of the relay.
#[derive(Debug)]
pub struct Remote {
    channel: Arc<Channel>,
    /// What the other process has no room for; no orders are taken meanwhile.
    held: Option<Report>,
}

/// Sends the guest's connections to one port to the other process.
#[derive(Debug)]
struct RemoteSink {
    host_port: u32,
    channel: Arc<Channel>,
}

impl Offers for RemoteSink {
    /// Refused when the other process does not receive.
    fn offer(&self, stream: UnixStream) -> bool {
        let report = Report::Offer { host_port: self.host_port };
        self.channel.send(&report, Some(stream.as_fd())).unwrap_or(false)
    }
}

impl Remote {
    /// The device's end of a socket.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel: Arc::new(channel), held: None }
    }

    /// Does what was ordered until now, as far as the answers find room. False when the other
    /// process is gone.
    ///
    /// # Errors
    /// [`RelayError`]: the other process is not who should be there.
    pub fn serve(
        &mut self,
        muxer: &mut Muxer,
        streams: &mut Streams,
        epoll: &Epoll,
    ) -> Result<bool, RelayError> {
        loop {
            if let Some(report) = self.held {
                if !self.channel.send(&report, None)? {
                    return Ok(true);
                }
                self.held = None;
            }
            let command = match self.channel.receive()? {
                Received::Nothing => return Ok(true),
                Received::End => return Ok(false),
                Received::Message(Order::Connect { guest_port }, Some(stream)) => {
                    Command::Connect { guest_port, stream: stream.into() }
                }
                Received::Message(Order::Listen { host_port, backlog }, None) => {
                    self.listen(muxer, streams, epoll, (host_port, backlog));
                    continue;
                }
                Received::Message(Order::Taken { host_port }, None) => Command::Taken { host_port },
                Received::Message(Order::Unlisten { host_port }, None) => {
                    Command::Unlisten { host_port }
                }
                Received::Stripped(Order::Connect { guest_port }) => {
                    tracing::warn!(guest_port, "no place for a stream of the host");
                    continue;
                }
                Received::Message(..) | Received::Stripped(_) => return Err(RelayError::Stream),
            };
            streams.execute(muxer, epoll, command);
        }
    }

    /// Ends the talk: the other process learns of it.
    pub fn close(&self) {
        self.channel.close();
    }

    fn listen(
        &mut self,
        muxer: &mut Muxer,
        streams: &mut Streams,
        epoll: &Epoll,
        (host_port, backlog): (u32, usize),
    ) {
        let sink = Box::new(RemoteSink { host_port, channel: self.channel.clone() });
        let (reply, answer) = mpsc::sync_channel(1);
        streams.execute(muxer, epoll, Command::Listen { host_port, backlog, sink, reply });
        let free = answer.try_recv().unwrap_or(false);
        self.held = Some(Report::Listening { host_port, free });
    }
}

/// Readable when something was ordered, and writable when there is room for answers.
impl AsFd for Remote {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests;
