//! Files of running containers: looked at, and copied as tar streams.

use std::os::unix::net::UnixStream;

use super::client::Session;
use super::control::{Event, Request};
use super::error::Error;
use super::record::Phase;
use super::store::Container;
use super::{Engine, wrong_phase};
use crate::guest::FileStatus;

/// A copy under way.
#[derive(Debug)]
pub struct Copying {
    session: Session,
    stream: UnixStream,
}

impl Copying {
    /// Where the archive is read from, or written to until it is shut down.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Waits until the guest has used what was written.
    ///
    /// # Errors
    /// Why it has not.
    pub fn wait(&mut self) -> Result<(), Error> {
        self.session.done()
    }

    /// Lets go of the stream, and waits until the guest has.
    ///
    /// # Errors
    /// Why the guest is not done: what it says counts for more than an archive that breaks off.
    pub fn finish(self) -> Result<(), Error> {
        let Self { mut session, stream } = self;
        // A guest that still writes is told that nobody reads.
        drop(stream);
        session.done()
    }
}

impl Engine {
    /// What `path` leads to in a running container; a symbolic link as its last part is not
    /// followed. `None` when there is nothing.
    ///
    /// # Errors
    /// [`Error::WrongPhase`], the monitor's, and those of the connection.
    pub fn file_status(
        &self,
        container: &Container,
        path: &str,
    ) -> Result<Option<FileStatus>, Error> {
        require_vm(container)?;
        let mut session = self.connect(container)?;
        session.request(&Request::FileStatus { path: path.to_owned() })?;
        loop {
            if let Event::File(status) = session.event()? {
                return Ok(status);
            }
        }
    }

    /// Begins to read a file or a folder of a running container. With `/.` at the end, or for `/`,
    /// the archive's names begin with `.` instead of the last part of `path`.
    ///
    /// # Errors
    /// As [`Engine::file_status`].
    pub fn copy_out(&self, container: &Container, path: &str) -> Result<Copying, Error> {
        self.copy(container, &Request::CopyOut { path: path.to_owned() })
    }

    /// Begins to extract an archive below a folder of a running container. The files are root's,
    /// unless the archive's owners are kept.
    ///
    /// # Errors
    /// As [`Engine::file_status`].
    pub fn copy_in(
        &self,
        container: &Container,
        path: &str,
        keep_owner: bool,
    ) -> Result<Copying, Error> {
        self.copy(container, &Request::CopyIn { path: path.to_owned(), keep_owner })
    }

    fn copy(&self, container: &Container, request: &Request) -> Result<Copying, Error> {
        require_vm(container)?;
        let mut session = self.connect(container)?;
        session.request(request)?;
        let stream = session.stream()?;
        Ok(Copying { session, stream })
    }
}

/// The files are a file system of the guest's: without a guest nobody can look into it.
fn require_vm(container: &Container) -> Result<(), Error> {
    if container.status.phase == Phase::Running {
        return Ok(());
    }
    let hint = ", and without its virtual machine its files are out of reach \
               (start it with husk start)";
    Err(wrong_phase(container, hint))
}
