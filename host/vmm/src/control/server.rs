//! The VMM's end of the control socket: takes calls, and keeps what the peer has no room for. Does
//! nothing of what is asked.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use super::message::{Call, Event, Message, Reply};
use crate::channel::{self, Channel, ChannelError, Received};

/// The most messages that wait for a peer that does not read.
const MAX_WAITING: usize = 64;

/// Why the talk is over.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The peer has closed its end.
    #[error("control: the monitor is gone")]
    Gone,
    /// The peer does not read.
    #[error("control: {MAX_WAITING} messages wait for the monitor")]
    Deaf,
    /// The peer sent a descriptor: no call has one.
    #[error("control: a descriptor that nobody asked for")]
    Descriptor,
    /// The peer makes no sense, or went.
    #[error("control")]
    Channel(#[from] ChannelError),
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    channel: Channel,
    waiting: VecDeque<Vec<u8>>,
}

impl Server {
    /// Serves one end of a socket.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel, waiting: VecDeque::new() }
    }

    /// The next call, `None` when there is none yet.
    ///
    /// # Errors
    /// [`ControlError`]: the talk is over.
    pub fn receive(&mut self) -> Result<Option<Call>, ControlError> {
        match self.channel.receive()? {
            Received::Message(call, None) => Ok(Some(call)),
            Received::Message(_, Some(_)) | Received::Stripped(_) => Err(ControlError::Descriptor),
            Received::Nothing => Ok(None),
            Received::End => Err(ControlError::Gone),
        }
    }

    /// Answers a call.
    ///
    /// # Errors
    /// [`ControlError`]: the talk is over.
    pub fn reply(&mut self, id: u64, reply: Reply) -> Result<(), ControlError> {
        self.send(&Message::Reply { id, reply })
    }

    /// Tells of something.
    ///
    /// # Errors
    /// [`ControlError`]: the talk is over.
    pub fn tell(&mut self, event: Event) -> Result<(), ControlError> {
        self.send(&Message::Event(event))
    }

    fn send(&mut self, message: &Message) -> Result<(), ControlError> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(ControlError::Deaf);
        }
        self.waiting.push_back(channel::encode(message)?);
        self.flush()
    }

    /// Whether messages wait for the peer to have room: the socket is then to be watched for it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// [`ControlError`]: the talk is over.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while let Some(bytes) = self.waiting.front() {
            if !self.channel.send_encoded(bytes, None)? {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::message::Request;
    use super::*;

    fn pair() -> (Channel, Server) {
        let (peer, ours) = Channel::pair().unwrap();
        (peer, Server::new(ours))
    }

    #[test]
    fn calls_are_read_and_answered_by_their_number() {
        let (peer, mut server) = pair();
        let call = Call { id: 7, request: Request::BalloonTarget { mib: 3 } };
        assert!(peer.send(&call, None).unwrap());
        assert_eq!(server.receive().unwrap(), Some(call));
        assert_eq!(server.receive().unwrap(), None);
        server.reply(7, Reply::Done).unwrap();
        let Received::Message(answer, None) = peer.receive::<Message>().unwrap() else { panic!() };
        assert_eq!(answer, Message::Reply { id: 7, reply: Reply::Done });
    }

    #[test]
    fn peer_that_goes_sends_garbage_or_descriptors_ends_the_talk() {
        let (peer, mut server) = pair();
        for garbage in ["{}", r#"{"id":1}"#, r#"{"id":1,"request":"reboot"}"#] {
            let garbage: serde_json::Value = serde_json::from_str(garbage).unwrap();
            assert!(peer.send(&garbage, None).unwrap());
            assert!(matches!(server.receive(), Err(ControlError::Channel(_))), "{garbage}");
        }
        let file = File::open("/dev/null").unwrap();
        let call = Call { id: 1, request: Request::Pause };
        assert!(peer.send(&call, Some(file.as_fd())).unwrap());
        assert!(matches!(server.receive(), Err(ControlError::Descriptor)));
        drop(peer);
        assert!(matches!(server.receive(), Err(ControlError::Gone)));
    }

    #[test]
    fn peer_that_does_not_read_is_waited_for_within_bounds() {
        let (peer, mut server) = pair();
        let long = || Event::Ended { status: 0, how: "x".repeat(20_000) };
        let mut told = 0_u32;
        let error = loop {
            match server.tell(long()) {
                Ok(()) => told += 1,
                Err(error) => break error,
            }
            assert!(told < 10_000);
        };
        assert!(matches!(error, ControlError::Deaf), "{error}");
        assert!(server.is_waiting());
        // What waited comes, in order, once the peer reads.
        let mut read = 0;
        while let Received::Message(message, None) = peer.receive::<Message>().unwrap() {
            assert_eq!(message, Message::Event(long()));
            read += 1;
            server.flush().unwrap();
        }
        assert_eq!(read, told);
        assert!(!server.is_waiting());
    }
}
