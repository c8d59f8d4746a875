//! A pseudo-terminal out of the container's own devpts.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    fcntl::{OFlag, open},
    sys::{
        stat::{Mode, fstat, major, minor},
        statfs::{DEVPTS_SUPER_MAGIC, PROC_SUPER_MAGIC},
    },
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};

use super::StageError;
use crate::{
    mount::{Root, is_on},
    sys::{self, mount::Depth, terminal::WindowSize},
};

const PTMX: &str = "/dev/pts/ptmx";
const CONSOLE: &str = "/dev/console";
/// Documentation/admin-guide/devices.txt, /dev/ptmx.
const PTMX_NUMBER: (u64, u64) = (5, 2);

/// Both ends.
#[derive(Debug)]
pub struct Terminal {
    /// The agent's.
    pub master: OwnedFd,
    /// The process's.
    slave: OwnedFd,
}

impl Terminal {
    /// Opens one in a root that is not yet the caller's own.
    ///
    /// # Errors
    /// [`StageError::Refused`] when the container has no devpts of its own.
    pub fn open_in(root: &Root<'_>) -> Result<Self, StageError> {
        let ptmx = root
            .open_plain(Path::new(PTMX), OFlag::O_RDWR | OFlag::O_NOCTTY)
            .map_err(StageError::path("open", PTMX))?;
        Self::from_ptmx(ptmx)
    }

    /// Opens one in the caller's own root.
    ///
    /// # Errors
    /// [`StageError::Refused`] when the container has no devpts of its own.
    pub fn open_here() -> Result<Self, StageError> {
        let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(StageError::path("open", "/"))?;
        Self::open_in(&Root::new(root.as_fd()))
    }

    /// The container can put any file where ptmx should be.
    fn from_ptmx(master: OwnedFd) -> Result<Self, StageError> {
        let file = fstat(&master).map_err(StageError::path("stat", PTMX))?;
        let is_ptmx = (major(file.st_rdev), minor(file.st_rdev)) == PTMX_NUMBER
            && is_on(&master, DEVPTS_SUPER_MAGIC).map_err(StageError::path("stat", PTMX))?;
        if !is_ptmx {
            let reason = "/dev/pts/ptmx is not that of a devpts";
            return Err(StageError::Refused { field: "process.terminal".to_owned(), reason });
        }
        sys::terminal::unlock(master.as_fd()).map_err(StageError::step("unlock the terminal"))?;
        let slave = sys::terminal::open_peer(master.as_fd())
            .map_err(StageError::step("open the terminal"))?;
        Ok(Self { master, slave })
    }

    /// Shows it as /dev/console.
    ///
    /// # Errors
    /// [`StageError`], also when the image has a link there that leads into /proc.
    pub fn bind_console(&self, root: &Root<'_>) -> Result<(), StageError> {
        let place =
            root.make_file(Path::new(CONSOLE)).map_err(StageError::path("make", CONSOLE))?;
        if is_on(&place, PROC_SUPER_MAGIC).map_err(StageError::path("stat", CONSOLE))? {
            let reason = "/dev/console of the image leads into /proc";
            return Err(StageError::Refused { field: "process.terminal".to_owned(), reason });
        }
        sys::mount::clone_tree(self.slave.as_fd(), Depth::One)
            .and_then(|mount| sys::mount::attach(mount.as_fd(), place.as_fd()))
            .map_err(StageError::path("bind", CONSOLE))
    }

    /// Makes it the caller's controlling terminal and its standard input, output and error. Leads a
    /// new session.
    ///
    /// # Errors
    /// [`StageError::Step`].
    pub fn take(self, size: Option<WindowSize>) -> Result<OwnedFd, StageError> {
        let step = StageError::step;
        setsid().map_err(step("start a session"))?;
        sys::terminal::make_controlling(self.slave.as_fd()).map_err(step("take the terminal"))?;
        if let Some(size) = size {
            sys::terminal::set_window(self.slave.as_fd(), size).map_err(step("set its window"))?;
        }
        dup2_stdin(&self.slave)
            .and_then(|()| dup2_stdout(&self.slave))
            .and_then(|()| dup2_stderr(&self.slave))
            .map_err(step("attach the terminal"))?;
        Ok(self.master)
    }
}
