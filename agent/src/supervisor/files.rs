//! Jobs that copy files of a container. They work on its root without any of its processes, in
//! whichever state it is, and let go of it when it is deleted.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use husk_protocols::{id::ContainerId, stream::StreamToken};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::sync::Semaphore;

use super::{
    Result, Supervisor, SupervisorError,
    assets::{Assets, blocking},
};
pub use crate::archive::{Copied, FileStatus, Owner};
use crate::{archive, stdio::Streams};

/// At once: each has a thread and up to 200 descriptors.
static COPIES: Semaphore = Semaphore::const_new(2);
/// How often a job that waits for the host looks whether the container goes.
const LOOK_MS: u16 = 200;

/// A stream of the host, without the runtime.
struct Wire {
    stream: OwnedFd,
    assets: Arc<Assets>,
}

impl Wire {
    /// Waits until the call will not block.
    fn wait(&self, event: PollFlags) -> io::Result<()> {
        loop {
            if self.assets.is_retired() {
                return Err(io::Error::other("the container is being deleted"));
            }
            let mut polled = [PollFd::new(self.stream.as_fd(), event)];
            match poll(&mut polled, PollTimeout::from(LOOK_MS)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::POLLIN)?;
            match nix::unistd::read(&self.stream, buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::POLLOUT)?;
            match nix::unistd::write(&self.stream, bytes) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Supervisor {
    /// Looks at a file of a container.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn stat(&self, id: ContainerId, path: PathBuf) -> Result<FileStatus> {
        let assets = self.reach(id).await?.assets;
        blocking(move || Ok(archive::status(assets.root()?, &path)?)).await?
    }

    /// Writes files of a container to a stream.
    ///
    /// # Errors
    /// [`SupervisorError`], also when the host closes the stream.
    pub async fn copy_out(
        &self,
        id: ContainerId,
        path: PathBuf,
        stream: (Streams, StreamToken),
    ) -> Result<Copied> {
        self.copy(id, stream, move |wire| {
            let assets = wire.assets.clone();
            // Many small headers become few writes.
            let wire = io::BufWriter::with_capacity(64 << 10, wire);
            Ok(archive::pack(assets.root()?, &path, wire)?)
        })
        .await
    }

    /// Extracts an archive from a stream below a folder of a container.
    ///
    /// # Errors
    /// [`SupervisorError`]; what was extracted before it stays.
    pub async fn copy_in(
        &self,
        id: ContainerId,
        path: PathBuf,
        stream: (Streams, StreamToken),
        owner: Owner,
    ) -> Result<Copied> {
        self.copy(id, stream, move |wire| {
            let assets = wire.assets.clone();
            let wire = io::BufReader::with_capacity(64 << 10, wire);
            Ok(archive::unpack(assets.root()?, &path, wire, owner)?)
        })
        .await
    }

    async fn copy(
        &self,
        id: ContainerId,
        (streams, token): (Streams, StreamToken),
        work: impl FnOnce(Wire) -> Result<Copied> + Send + 'static,
    ) -> Result<Copied> {
        let stream = streams.claim_single(token).await?;
        let turn = COPIES.acquire().await.map_err(|_| SupervisorError::Gone)?;
        let assets = self.reach(id).await?.assets;
        let copied = blocking(move || work(Wire { stream: stream.into(), assets })).await;
        drop(turn);
        copied?
    }
}
