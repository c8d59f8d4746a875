//! The way into namespaces that are there already, and into time namespaces, which nobody is born
//! in.

use std::{
    io::Write,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sched::setns,
    sys::stat::Mode,
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

use super::{StageError, plan::Kind};

/// The guest's own /proc, for as long as nothing of the container's can lie over it.
pub struct GuestProc(OwnedFd);

impl GuestProc {
    /// Opens it.
    ///
    /// # Errors
    /// [`StageError::Path`].
    pub fn open() -> Result<Self, StageError> {
        open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map(Self)
            .map_err(StageError::path("open", "/proc"))
    }

    /// Opens a file below it.
    ///
    /// # Errors
    /// As openat(2).
    pub fn file(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        openat(&self.0, path, flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// Writes a file below it in one call.
    ///
    /// # Errors
    /// As openat(2) and write(2).
    pub fn write(&self, path: &str, value: &str) -> nix::Result<()> {
        let mut file = std::fs::File::from(self.file(path, OFlag::O_WRONLY)?);
        file.write_all(value.as_bytes())
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

/// Enters namespaces in this order. In a user namespace the caller is its root then.
///
/// # Errors
/// [`StageError`] with the field of the spec.
pub fn join(namespaces: Vec<(Kind, OwnedFd)>) -> Result<(), StageError> {
    for (kind, namespace) in namespaces {
        setns(&namespace, kind.flag())
            .map_err(StageError::path("join", format!("{}.path", kind.field())))?;
        if kind == Kind::User {
            become_root()?;
        }
    }
    Ok(())
}

/// User and group 0 of the caller's user namespace: who enters one is nobody there at first, who
/// can do everything.
///
/// # Errors
/// [`StageError::Step`] when the namespace has no root.
pub fn become_root() -> Result<(), StageError> {
    match setgroups(&[]) {
        // A namespace that was made without privileges does not let them be changed, and there are
        // none to take away.
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(StageError::step("leave the guest's groups")(errno)),
    }
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)
        .and_then(|()| setresuid(user, user, user))
        .map_err(StageError::step("become root of the user namespace"))
}

/// Sets the clocks of the time namespace that the caller has unshared, and enters it: so far it is
/// for the caller's children alone.
///
/// # Errors
/// [`StageError`]; `linux.timeOffsets` where a clock would be out of its range.
pub fn enter_new_time(proc: &GuestProc, offsets: &[String]) -> Result<(), StageError> {
    if !offsets.is_empty() {
        proc.write("self/timens_offsets", &offsets.join("\n")).map_err(|errno| match errno {
            Errno::ERANGE => StageError::Refused {
                field: "linux.timeOffsets".to_owned(),
                reason: "a clock would be before its start or beyond its end",
            },
            errno => StageError::step("set linux.timeOffsets")(errno),
        })?;
    }
    proc.file("self/ns/time_for_children", OFlag::O_RDONLY)
        .and_then(|namespace| setns(namespace.as_fd(), Kind::Time.flag()))
        .map_err(StageError::step("enter the time namespace"))
}
