//! What clients and monitors say to each other: one connection per operation, JSON frames with a
//! four-byte big-endian length before them. Stream descriptors travel with the frame that
//! announces them. Shapes and framing; the two ends are `client` and `monitor::control`.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::{Process, Resources};
use crate::guest::{FileStatus, ProcessInfo, Usage};
use crate::sys::fd;

/// Longest frame. A command line may have 2 MiB on Linux; the rest is small.
pub const MAX_FRAME: usize = 4 << 20;

/// From a client. The first frame of a connection is one of the upper group; `Resize` and `Signal`
/// may follow on an attached connection.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// On the monitor's own first connection only: boot and start.
    Start {
        /// Streams wanted, before the first byte is written.
        attach: Option<Attach>,
        /// The client's clock when it was started, nanoseconds of `CLOCK_MONOTONIC`.
        client_started_ns: u64,
    },
    /// Join the streams of the running container.
    Attach(Attach),
    /// A further process. Boxed: far larger than the others.
    Exec(Box<Exec>),
    /// Tell when the container has ended.
    Wait,
    /// STOPSIGNAL, then SIGKILL after so many seconds. Answered when it has ended.
    Stop {
        /// Grace; `None` waits for ever.
        timeout_s: Option<u64>,
    },
    /// Freeze every process.
    Pause,
    /// Let them go on.
    Resume,
    /// Other limits. Boxed: larger than the others.
    Update(Box<Resources>),
    /// Tell what has been used.
    Usage,
    /// Tell which processes there are.
    Processes,
    /// Tell what a path leads to.
    FileStatus {
        /// Absolute, as the container sees it.
        path: String,
    },
    /// Write files to a stream as tar.
    CopyOut {
        /// As above; `/.` at its end stands for what is in the folder.
        path: String,
    },
    /// Extract a tar archive from a stream.
    CopyIn {
        /// The folder that it goes to.
        path: String,
        /// Owners as in the archive; else root.
        keep_owner: bool,
    },
    /// A signal for the process of this connection, or for the container's first one.
    Signal(i32),
    /// The client's window has this size now.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters of a line.
        columns: u16,
    },
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Attach {
    /// Feed stdin.
    pub stdin: bool,
    /// Receive what is written.
    pub output: bool,
    /// Size of the client's terminal.
    pub window: Option<(u16, u16)>,
}

/// A further process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// What runs. An empty `args[0]` never gets here.
    pub process: Process,
    /// Streams wanted; none for `exec -d`.
    pub attach: Option<Attach>,
    /// With every capability.
    pub privileged: bool,
}

/// From the monitor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// The process will use these streams: the frame carries their descriptors, in the order
    /// stdin, stdout, stderr, as far as asked for. A terminal has stdout alone, both ways.
    Streams {
        /// One descriptor for stdin.
        stdin: bool,
        /// One for stdout, or for the terminal.
        stdout: bool,
        /// One for stderr.
        stderr: bool,
    },
    /// The process runs.
    Started,
    /// It has ended, and every byte it wrote is in its streams.
    Exited {
        /// As `$?` would be.
        exit_code: i32,
        /// Why, when not by itself.
        error: String,
        /// Where the time went.
        timings: Timings,
    },
    /// Done what was asked; nothing else to say.
    Done,
    /// What has been used up to now.
    Usage(Usage),
    /// The processes that there are.
    Processes(Vec<ProcessInfo>),
    /// What the path leads to.
    File(Option<FileStatus>),
    /// Not done.
    Failed {
        /// 125 to 127.
        exit_code: u8,
        /// One line.
        message: String,
    },
}

/// Where the time of a run went: microseconds, each since the end of the one before.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Timings {
    /// From the client's start to the monitor's readiness to boot.
    pub client_us: u64,
    /// Until the VM process was started.
    pub vm_start_us: u64,
    /// Until the guest kernel ran the agent.
    pub kernel_us: u64,
    /// Until the agent had announced itself.
    pub agent_us: u64,
    /// Until the container's process ran.
    pub container_us: u64,
    /// Until it had ended and its output was delivered.
    pub run_us: u64,
    /// Until the VM was gone and the state was written.
    pub teardown_us: u64,
}

/// Puts a frame together.
///
/// # Errors
/// `InvalidInput` beyond [`MAX_FRAME`].
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let len = u32::try_from(body.len()).ok().filter(|&len| len as usize <= MAX_FRAME);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "message too long"))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Takes frames apart, whatever pieces they arrive in.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Adds what has arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// `InvalidData` for a frame that is too long or says nothing that we know.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.buffer.drain(..4 + len);
        Ok(Some(message))
    }
}

/// The blocking end of a control connection: the client's.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    fds: Vec<OwnedFd>,
}

impl Connection {
    /// Wraps a connected socket.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, decoder: Decoder::default(), fds: Vec::new() }
    }

    /// A second sender for the same connection.
    ///
    /// # Errors
    /// dup(2).
    pub fn sender(&self) -> io::Result<Sender> {
        Ok(Sender(self.socket.try_clone()?))
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for the next message; `None` when the other side is gone. Descriptors that come
    /// along are kept for [`Connection::take_fds`].
    ///
    /// # Errors
    /// recvmsg(2); `InvalidData`.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(Some(message));
            }
            let mut buffer = [0; 4096];
            match fd::receive(self.socket.as_fd(), &mut buffer) {
                Ok((0, _)) => return Ok(None),
                Ok((count, fds)) => {
                    self.decoder.feed(&buffer[..count]);
                    self.fds.extend(fds);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The descriptors received so far.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }
}

/// Sends requests on a connection that somebody else reads.
#[derive(Debug)]
pub struct Sender(UnixStream);

impl Sender {
    /// Sends one request. Blocks while the monitor does not read.
    ///
    /// # Errors
    /// write(2).
    pub fn send(&self, request: &Request) -> io::Result<()> {
        use std::io::Write;
        (&self.0).write_all(&encode(request)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let mut bytes = encode(&Request::Signal(15)).unwrap();
        bytes.extend(encode(&Request::Wait).unwrap());
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for byte in bytes {
            decoder.feed(&[byte]);
            seen.extend(decoder.next_message::<Request>().unwrap());
        }
        assert!(matches!(seen.as_slice(), [Request::Signal(15), Request::Wait]));
    }

    #[test]
    fn frame_of_a_liar_is_refused_before_it_is_awaited() {
        let mut decoder = Decoder::default();
        decoder.feed(&u32::MAX.to_be_bytes());
        assert!(decoder.next_message::<Request>().is_err());
    }
}
