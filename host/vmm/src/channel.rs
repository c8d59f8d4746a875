//! Typed messages between two processes over a socket that keeps their bounds: JSON, bounded, with
//! at most one descriptor each. Never blocks; knows no meaning of any message.

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    recvmsg, sendmsg, shutdown, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message.
pub const MAX_MESSAGE_BYTES: usize = 32 << 10;
/// The most descriptors that a sender can put into one message: all are received, so that none is
/// left open. `SCM_MAX_FD`, Linux include/net/scm.h.
const MAX_DESCRIPTORS: usize = 253;

/// Why there is no talking to the peer any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Of sendmsg(2): the peer is gone, mostly.
    #[error("send a message")]
    Send(#[source] Errno),
    /// Of recvmsg(2).
    #[error("receive a message")]
    Receive(#[source] Errno),
    /// The peer's, or ours.
    #[error("message of more than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    /// The peer sent what is no message.
    #[error("message that makes no sense")]
    Garbage(#[source] serde_json::Error),
    /// The peer sent descriptors where there should be one at most.
    #[error("message with {count} descriptors")]
    Descriptors {
        /// How many came.
        count: usize,
    },
}

/// What [`Channel::receive`] found.
#[derive(Debug)]
pub enum Received<T> {
    /// A message, and the descriptor that came with it.
    Message(T, Option<OwnedFd>),
    /// A message whose descriptor found no place in this process, which has too many open: it is
    /// closed, and whoever holds the other end learns of that.
    Stripped(T),
    /// Nothing is there yet.
    Nothing,
    /// The peer sends no more.
    End,
}

/// What recvmsg(2) gave.
#[derive(Debug, Default)]
struct Packet {
    count: usize,
    descriptors: Vec<OwnedFd>,
    /// Descriptors that were sent are not there.
    stripped: bool,
}

/// One end of a `SOCK_SEQPACKET` socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Two ends that talk to each other.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Takes over a socket, which is a `SOCK_SEQPACKET` one.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends a message. False when the peer has to receive some first.
    ///
    /// # Errors
    /// [`ChannelError`]: the peer is gone, or the message is too long.
    pub fn send(
        &self,
        message: &impl Serialize,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<bool, ChannelError> {
        self.send_encoded(&encode(message)?, descriptor)
    }

    /// Sends what [`encode`] made. False when the peer has to receive some first.
    ///
    /// # Errors
    /// [`ChannelError::Send`].
    pub fn send_encoded(
        &self,
        bytes: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<bool, ChannelError> {
        let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let parts = [IoSlice::new(bytes)];
        loop {
            match sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None) {
                Ok(_) => return Ok(true),
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(ChannelError::Send(error)),
            }
        }
    }

    /// Receives the next message.
    ///
    /// # Errors
    /// [`ChannelError`]: the peer is not who should be there.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Received<T>, ChannelError> {
        self.receive_with(cmsg_space!([RawFd; MAX_DESCRIPTORS]))
    }

    /// With room for descriptors in `control`.
    fn receive_with<T: DeserializeOwned>(
        &self,
        control: Vec<u8>,
    ) -> Result<Received<T>, ChannelError> {
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        let Some(Packet { count, mut descriptors, stripped }) =
            self.receive_bytes(&mut buffer, control)?
        else {
            return Ok(Received::Nothing);
        };
        if count == 0 {
            return Ok(Received::End);
        }
        if descriptors.len() > 1 {
            return Err(ChannelError::Descriptors { count: descriptors.len() });
        }
        let message = serde_json::from_slice(&buffer[..count]).map_err(ChannelError::Garbage)?;
        if stripped {
            return Ok(Received::Stripped(message));
        }
        Ok(Received::Message(message, descriptors.pop()))
    }

    /// `None` when nothing is there yet.
    fn receive_bytes(
        &self,
        buffer: &mut [u8],
        mut control: Vec<u8>,
    ) -> Result<Option<Packet>, ChannelError> {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let socket = self.socket.as_raw_fd();
        let message = loop {
            match recvmsg::<()>(socket, &mut parts, Some(&mut control), flags) {
                Ok(message) => break message,
                Err(Errno::EAGAIN) => return Ok(None),
                // Of a peer that closed with messages of ours unread: an end.
                Err(Errno::ECONNRESET) => return Ok(Some(Packet::default())),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(ChannelError::Receive(error)),
            }
        };
        let mut packet = Packet { count: message.bytes, ..Packet::default() };
        // Of several, some may have found a place, and nobody says which: only a peer that lies
        // sends several.
        packet.stripped = message.flags.contains(MsgFlags::MSG_CTRUNC);
        let parts = if packet.stripped { None } else { Some(message.cmsgs()) };
        for part in parts.transpose().map_err(ChannelError::Receive)?.into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(received) = part {
                // SAFETY: the kernel has just installed these descriptors for this message; nothing
                // else knows their numbers yet.
                let owned = received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                packet.descriptors.extend(owned);
            }
        }
        if message.flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(ChannelError::TooLong);
        }
        Ok(Some(packet))
    }

    /// Ends the talk for both sides, whoever else holds the socket.
    pub fn close(&self) {
        // A peer that is gone needs no telling.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }
}

/// A message as it is sent.
///
/// # Errors
/// [`ChannelError::TooLong`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, ChannelError> {
    let bytes = serde_json::to_vec(message).map_err(ChannelError::Garbage)?;
    if bytes.len() > MAX_MESSAGE_BYTES { Err(ChannelError::TooLong) } else { Ok(bytes) }
}

/// Readable when there is a message or the end.
impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn raw(channel: &Channel, bytes: &[u8], fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let parts = [IoSlice::new(bytes)];
        let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
        sendmsg::<()>(channel.socket.as_raw_fd(), &parts, control, MsgFlags::empty(), None)
            .unwrap();
    }

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn messages_arrive_in_order_with_their_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        assert!(a.send(&"one", Some(file.as_fd())).unwrap());
        assert!(a.send(&"two", None).unwrap());
        let Received::Message(text, Some(_)) = b.receive::<String>().unwrap() else { panic!() };
        assert_eq!(text, "one");
        let Received::Message(text, None) = b.receive::<String>().unwrap() else { panic!() };
        assert_eq!(text, "two");
        assert!(matches!(b.receive::<String>().unwrap(), Received::Nothing));
        drop(a);
        assert!(matches!(b.receive::<String>().unwrap(), Received::End));
        assert!(matches!(b.send(&"three", None), Err(ChannelError::Send(Errno::EPIPE))));
    }

    #[test]
    fn garbage_halves_and_long_messages_are_refused() {
        let (a, b) = Channel::pair().unwrap();
        for bytes in [&b"\xff\xfe"[..], b"\"half", b"{}", b"\"one\" \"two\""] {
            raw(&a, bytes, &[]);
            assert!(matches!(b.receive::<String>(), Err(ChannelError::Garbage(_))), "{bytes:?}");
        }
        raw(&a, &[b' '; MAX_MESSAGE_BYTES + 1], &[]);
        assert!(matches!(b.receive::<String>(), Err(ChannelError::TooLong)));
        let long = "x".repeat(MAX_MESSAGE_BYTES);
        assert!(matches!(a.send(&long, None), Err(ChannelError::TooLong)));
    }

    #[test]
    fn descriptors_beyond_one_are_refused_and_closed() {
        // Other tests of the process open and close theirs: what counts is that 100 are not left.
        let (a, b) = Channel::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let before = open_descriptors();
        for _ in 0..4 {
            raw(&a, b"\"x\"", &[file.as_raw_fd(); 100]);
            let refused = b.receive::<String>();
            assert!(matches!(refused, Err(ChannelError::Descriptors { count: 100 })));
        }
        assert!(open_descriptors() < before + 100);
    }

    #[test]
    fn message_whose_descriptor_finds_no_place_arrives_without_and_the_talk_goes_on() {
        let (a, b) = Channel::pair().unwrap();
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(a.send(&"one", Some(far.as_fd())).unwrap());
        assert!(a.send(&"two", None).unwrap());
        drop(far);
        // The kernel says the same of a process that has as many descriptors open as it may.
        let Received::Stripped(text) = b.receive_with::<String>(Vec::new()).unwrap() else {
            panic!("a descriptor arrived")
        };
        assert_eq!(text, "one");
        assert_eq!(std::io::Read::read(&mut &near, &mut [0]).unwrap(), 0, "an end");
        assert!(matches!(b.receive::<String>().unwrap(), Received::Message(_, None)));
    }

    #[test]
    fn peer_that_does_not_receive_blocks_nobody() {
        let (a, b) = Channel::pair().unwrap();
        let text = "x".repeat(1000);
        let mut sent = 0;
        while a.send(&text, None).unwrap() {
            sent += 1;
            assert!(sent < 1_000_000);
        }
        assert!(sent > 0);
        assert!(matches!(b.receive::<String>().unwrap(), Received::Message(..)));
    }
}
