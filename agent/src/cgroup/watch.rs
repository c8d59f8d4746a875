//! Files of a cgroup whose changes the kernel tells: `cgroup.events`, `memory.events`. One
//! descriptor in the runtime's poll, no thread.

use std::{fs::File, io, os::fd::OwnedFd, path::Path};

use nix::sys::uio::pread;
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys;

/// Those files are some lines of a name and a number.
const MAX_BYTES: usize = 4096;

/// A file that is read again and again.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OwnedFd::from(File::open(path)?);
        sys::descriptor::polled(file, Interest::PRIORITY).map(Self)
    }

    /// The number behind a name, as it is now.
    ///
    /// # Errors
    /// As read(2): `ENODEV` when the cgroup is gone.
    pub fn value(&self, name: &str) -> io::Result<u64> {
        let mut buffer = [0; MAX_BYTES];
        let len = pread(self.0.get_ref(), &mut buffer, 0)?;
        let text = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
        Ok(super::stats::entry(&text, name))
    }

    /// Waits until it may have changed since it was read last.
    ///
    /// # Errors
    /// When the runtime is shut down.
    pub async fn changed(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}
