//! The socket between the agent and a second stage, and what travels on it. A frame is its length
//! (four bytes, little-endian) and a message; `Go` is one byte.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::net::UnixStream,
    },
};

use husk_protocols::error::ErrorKind;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    StageError,
    plan::{InitPlan, Namespaces, ProcessPlan},
};
use crate::{failure, sys};

/// The stage's end of the socket.
pub const LINK: i32 = 3;
/// Tells a waiting stage to go on.
pub const GO: u8 = 1;
/// Longest message. A spec of the longest RPC fits.
const MAX_FRAME: usize = 8 << 20;
const HEADER: usize = 4;
/// Room for a report of a number, and its header.
const SHORT_FRAME: usize = 16;
/// Longest message of a failure: a hostile path can be in it.
const MAX_TEXT: usize = 4096;

/// What a stage is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Set a container up and become its first process.
    Init {
        /// What the spec asks.
        plan: Box<InitPlan>,
        /// The container's cgroup, below the guest's root cgroup, without a slash at the start.
        cgroup: String,
    },
    /// Enter a running container and become a further process.
    Join {
        /// Those the container has to itself.
        namespaces: Namespaces,
        /// What is asked.
        process: Box<ProcessPlan>,
    },
}

/// What a stage says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// All is set up. The master of the terminal comes with it, if one was asked for.
    Ready,
    /// A filter is loaded, and this descriptor of the stage's is to go to its listener. The stage
    /// waits for [`GO`].
    Listener(RawFd),
    /// It will end.
    Failed(Failure),
    /// Mounts and devices are there, the root is not entered; it waits for the agent's hooks.
    Prepared,
}

/// Why a stage ends.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// For the host to act on.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

impl From<&StageError> for Failure {
    fn from(error: &StageError) -> Self {
        let message = failure::line(error).chars().take(MAX_TEXT).collect();
        Self { kind: error.kind(), message }
    }
}

/// A message as a frame.
///
/// # Errors
/// `InvalidInput` when it is too long.
pub fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let len = frame.len() - HEADER;
    if len > MAX_FRAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let len = u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    for (slot, byte) in frame.iter_mut().zip(len.to_le_bytes()) {
        *slot = byte;
    }
    Ok(frame)
}

/// Takes the first message out of what has been received so far; `None` when it is not all there.
///
/// # Errors
/// `InvalidData` for what no frame begins with.
pub fn unframe<T: DeserializeOwned>(received: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some((header, rest)) = received.split_first_chunk::<HEADER>() else { return Ok(None) };
    let len = length(*header)?;
    let Some(body) = rest.get(..len) else { return Ok(None) };
    let message = postcard::from_bytes(body).map_err(|_| io::ErrorKind::InvalidData)?;
    received.drain(..HEADER + len);
    Ok(Some(message))
}

fn length(header: [u8; HEADER]) -> io::Result<usize> {
    let len = u32::from_le_bytes(header) as usize;
    if len > MAX_FRAME { Err(io::ErrorKind::InvalidData.into()) } else { Ok(len) }
}

/// The stage's end.
#[derive(Debug)]
pub struct Link(UnixStream);

impl Link {
    /// Takes the inherited socket.
    ///
    /// # Errors
    /// `EBADF` when the process was started by somebody else.
    pub fn inherited() -> sys::Result<Self> {
        sys::descriptor::inherited(LINK).map(|fd| Self(UnixStream::from(fd)))
    }

    /// Waits for the order. Blocks.
    ///
    /// # Errors
    /// [`StageError::Link`].
    pub fn order(&self) -> Result<Order, StageError> {
        let read = || -> io::Result<Order> {
            let mut header = [0; HEADER];
            (&self.0).read_exact(&mut header)?;
            let mut body = vec![0; length(header)?];
            (&self.0).read_exact(&mut body)?;
            postcard::from_bytes(&body).map_err(|_| io::ErrorKind::InvalidData.into())
        };
        read().map_err(StageError::Link)
    }

    /// Says that all is set up, and hands the terminal over.
    ///
    /// # Errors
    /// [`StageError::Link`].
    pub fn ready(&self, terminal: Option<BorrowedFd<'_>>) -> Result<(), StageError> {
        self.send(&Report::Ready, terminal).map_err(StageError::Link)
    }

    /// Says that a filter has a listener, and waits until that has been handed over. By write(2)
    /// and read(2), since the filter is in force.
    ///
    /// # Errors
    /// [`StageError::Link`].
    pub fn hand_over(&self, listener: BorrowedFd<'_>) -> Result<(), StageError> {
        let tell = || -> io::Result<()> {
            // Without an allocation, which could need a call that the filter has something against.
            let mut frame = [0; SHORT_FRAME];
            let (header, body) = frame.split_at_mut(HEADER);
            let report = Report::Listener(listener.as_raw_fd());
            let len = postcard::to_slice(&report, body).map_err(io::Error::other)?.len();
            header.copy_from_slice(&u32::try_from(len).map_err(io::Error::other)?.to_le_bytes());
            (&self.0).write_all(frame.get(..HEADER + len).unwrap_or_default())
        };
        tell().map_err(StageError::Link)?;
        self.wait_for_go()
    }

    /// Says why the stage ends.
    ///
    /// # Errors
    /// When the agent is not there to hear it.
    pub fn fail(&self, error: &StageError) -> io::Result<()> {
        self.send(&Report::Failed(error.into()), None)
    }

    /// Says that the agent's hooks can run.
    ///
    /// # Errors
    /// [`StageError::Link`].
    pub fn prepared(&self) -> Result<(), StageError> {
        self.send(&Report::Prepared, None).map_err(StageError::Link)
    }

    fn send(&self, report: &Report, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let frame = frame(report)?;
        // One call: a report is far shorter than the socket's buffer.
        match sys::descriptor::send_with(self.0.as_fd(), &frame, fd)? {
            sent if sent == frame.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Waits for the agent's word. Blocks.
    ///
    /// # Errors
    /// [`StageError::Link`], also when the agent closes the link instead.
    pub fn wait_for_go(&self) -> Result<(), StageError> {
        let mut byte = [0];
        (&self.0).read_exact(&mut byte).map_err(StageError::Link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_out_one_by_one() {
        let failure = Failure { kind: ErrorKind::CommandNotFound, message: "x".to_owned() };
        let mut received = frame(&Report::Ready).unwrap();
        received.extend(frame(&Report::Failed(failure)).unwrap());
        let last = received.pop().unwrap();
        assert!(matches!(unframe(&mut received), Ok(Some(Report::Ready))));
        assert!(matches!(unframe::<Report>(&mut received), Ok(None)));
        received.push(last);
        let Ok(Some(Report::Failed(failure))) = unframe(&mut received) else {
            panic!("no failure")
        };
        assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::CommandNotFound, "x"));
        assert!(received.is_empty());
    }

    #[test]
    fn absurd_length_is_refused_before_anything_is_allocated() {
        let mut received = u32::MAX.to_le_bytes().to_vec();
        assert!(unframe::<Report>(&mut received).is_err());
    }
}
