//! A guest whose host misbehaves: the bare connection, for cases after which nothing is left to
//! ask.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use husk_protocols::port::STREAM_PORT;
use husk_vmm::vsock::VsockHandle;

use super::{Bed, Options, machine, own_folder};

/// A guest may take seconds to end on a busy machine.
const DEADLINE: Duration = Duration::from_secs(240);
const INTERVAL: Duration = Duration::from_millis(50);

/// A VM with an agent that has announced itself, and nothing that speaks to it.
pub struct RawGuest {
    /// On which the agent serves ttrpc.
    pub connection: UnixStream,
    vsock: VsockHandle,
    console_log: PathBuf,
}

impl RawGuest {
    /// Boots one. Its files go below `folder`.
    ///
    /// # Errors
    /// When the guest does not come up.
    pub fn boot(folder: &Path, options: &Options) -> Result<Self> {
        let machine = machine::start(&own_folder(folder), options)?;
        machine.connection.set_nonblocking(false)?;
        machine.connection.set_read_timeout(Some(DEADLINE))?;
        let (connection, vsock) = (machine.connection, machine.vsock);
        Ok(Self { connection, vsock, console_log: machine.console_log })
    }

    /// Sends a frame: ttrpc's header and a payload.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn send(&mut self, stream: u32, kind: u8, payload: &[u8]) -> Result<()> {
        let mut frame = u32::try_from(payload.len())?.to_be_bytes().to_vec();
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&[kind, 0]);
        frame.extend_from_slice(payload);
        Ok(self.connection.write_all(&frame)?)
    }

    /// Receives a frame: the stream it is of, and its payload.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn receive(&mut self) -> Result<(u32, Vec<u8>)> {
        let mut header = [0; 10];
        self.connection.read_exact(&mut header)?;
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four"));
        let mut payload = vec![0; usize::try_from(word(0))?];
        self.connection.read_exact(&mut payload)?;
        Ok((word(4), payload))
    }

    /// Whether the guest takes connections.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.vsock.connect(STREAM_PORT).is_ok()
    }

    /// Waits until the VM has ended, and returns what its console has shown.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(self) -> Result<String> {
        let Self { connection, vsock, console_log } = self;
        drop(connection);
        let begin = Instant::now();
        while vsock.connect(STREAM_PORT).is_ok() {
            if begin.elapsed() > DEADLINE {
                bail!("the VM runs on: {}", fs::read_to_string(&console_log)?);
            }
            thread::sleep(INTERVAL);
        }
        Ok(String::from_utf8_lossy(&fs::read(&console_log)?).into_owned())
    }
}

/// What is left of a bed whose host has hung up.
pub struct Gone(VsockHandle);

impl Gone {
    /// Waits until the VM has ended; whether it has.
    #[must_use]
    pub fn wait(&self, deadline: Duration) -> bool {
        let begin = Instant::now();
        while self.0.connect(STREAM_PORT).is_ok() {
            if begin.elapsed() > deadline {
                return false;
            }
            thread::sleep(INTERVAL);
        }
        true
    }
}

impl Bed {
    /// Closes the connection to the agent.
    #[must_use]
    pub fn hang_up(self) -> Gone {
        Gone(self.vsock.clone())
    }
}
