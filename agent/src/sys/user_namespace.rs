//! User namespaces as descriptors: user_namespaces(7). One that no process is in, for idmapped
//! mounts; and the maps of one that a process is in.
#![allow(unsafe_code)]

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::wait::{WaitPidFlag, waitpid},
    unistd::pipe2,
};

use super::{
    Result,
    clone::{CLONE_NEWUSER, Child, EXEC_FAILED, UNTOLD, clone, exit},
    process::send_signal,
};

/// `UID_GID_MAP_MAX_EXTENTS`, linux/user_namespace.h: lines of a map.
pub const MAX_MAPPINGS: usize = 340;

/// `PAGE_SIZE`, at its smallest.
const PAGE: usize = 4096;

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mapping {
    /// The first one as the namespace has it.
    pub inside: u32,
    /// The first one as the caller's namespace has it.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// A user namespace with these maps that no process is in. `outside` is what the caller's namespace
/// means by it. Blocks for as long as a short-lived child takes.
///
/// # Errors
/// `EINVAL` for maps that the kernel refuses: empty, overlapping, or of more than [`MAX_MAPPINGS`]
/// lines; `EUSERS` or `ENOSPC` when there are too many namespaces.
pub fn make(uid: &[Mapping], gid: &[Mapping]) -> Result<OwnedFd> {
    let helper = Helper::start(None)?;
    let folder = helper.folder()?;
    write_maps(&folder, uid, gid)?;
    Ok(File::open(format!("{folder}/ns/user")).map_err(|error| errno(&error))?.into())
}

/// The maps of a user namespace, users first, with `outside` as the caller's namespace has it.
/// Blocks for as long as a short-lived child takes.
///
/// # Errors
/// `EPERM` when the caller may not enter it.
pub fn maps_of(namespace: BorrowedFd<'_>) -> Result<(Vec<Mapping>, Vec<Mapping>)> {
    let (hear, tell) = pipe2(OFlag::O_CLOEXEC)?;
    let helper = Helper::start(Some((namespace.as_raw_fd(), tell.as_raw_fd())))?;
    drop(tell);
    File::from(hear).read_exact(&mut [0]).map_err(|_| Errno::EPERM)?;
    let folder = helper.folder()?;
    let read = |name| {
        let text = fs::read_to_string(format!("{folder}/{name}")).map_err(|error| errno(&error))?;
        text.lines().map(|line| parse(line).ok_or(Errno::EIO)).collect::<Result<Vec<_>>>()
    };
    Ok((read("uid_map")?, read("gid_map")?))
}

fn parse(line: &str) -> Option<Mapping> {
    let mut numbers = line.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Mapping { inside: next()?, outside: next()?, size: next()? })
}

/// Writes the maps of the namespace that a process has just made. `folder` is that process below a
/// /proc that the caller sees.
///
/// # Errors
/// As user_namespaces(7): `EPERM` when they are written already.
pub fn write_maps(folder: &str, uid: &[Mapping], gid: &[Mapping]) -> Result<()> {
    for (name, map) in [("uid_map", uid), ("gid_map", gid)] {
        let path = format!("{folder}/{name}");
        // One call writes all of a map.
        let mut file =
            fs::OpenOptions::new().write(true).open(path).map_err(|error| errno(&error))?;
        file.write_all(lines(map).as_bytes()).map_err(|error| errno(&error))?;
    }
    Ok(())
}

/// Whether a map is one that the kernel takes: it reads less than a page of text, which the longest
/// numbers exceed before [`MAX_MAPPINGS`].
#[must_use]
pub fn fits(map: &[Mapping]) -> bool {
    map.len() <= MAX_MAPPINGS && lines(map).len() < PAGE
}

fn lines(map: &[Mapping]) -> String {
    map.iter().fold(String::new(), |mut lines, Mapping { inside, outside, size }| {
        // A string takes all that is written to it.
        let _ = writeln!(lines, "{inside} {outside} {size}");
        lines
    })
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A child that does nothing in a user namespace of its own, until it is dropped. It has no exit
/// signal, so that nobody who waits for children of any kind hears of it.
struct Helper(Child);

impl Helper {
    /// In a new namespace, or in one that is there, of which it then tells: (namespace, pipe).
    fn start(enter: Option<(RawFd, RawFd)>) -> Result<Self> {
        let flags = if enter.is_none() { CLONE_NEWUSER } else { 0 };
        match clone(flags, UNTOLD, None)? {
            Some(child) => Ok(Self(child)),
            None => idle(enter),
        }
    }

    /// The child below /proc, which may be of another pid namespace than the caller's.
    fn folder(&self) -> Result<String> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.pidfd.as_raw_fd()))
            .map_err(|error| errno(&error))?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(Errno::ESRCH)?;
        Ok(format!("/proc/{}", pid.trim()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It is there until it is waited for, which happens here alone.
        let _ = send_signal(self.0.pidfd.as_fd(), libc::SIGKILL);
        while waitpid(self.0.pid, Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
    }
}

/// Waits to be killed, also by the death of who has started it.
fn idle(enter: Option<(RawFd, RawFd)>) -> ! {
    // SAFETY: plain numbers.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    if let Some((namespace, tell)) = enter {
        // SAFETY: plain numbers.
        let entered = unsafe { libc::syscall(libc::SYS_setns, namespace, libc::CLONE_NEWUSER) };
        if entered != 0 {
            // The pipe's end tells.
            exit(EXEC_FAILED);
        }
        let byte: u8 = 1;
        // SAFETY: the buffer is one byte.
        unsafe { libc::syscall(libc::SYS_write, tell, &raw const byte, 1) };
    }
    loop {
        // SAFETY: no descriptors and no timeout: poll(2) waits for a signal.
        unsafe {
            libc::syscall(
                libc::SYS_ppoll,
                std::ptr::null_mut::<libc::pollfd>(),
                0,
                std::ptr::null::<libc::timespec>(),
                std::ptr::null::<libc::sigset_t>(),
                0,
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_a_line_each() {
        let map = [
            Mapping { inside: 0, outside: 100_000, size: 65_536 },
            Mapping { inside: 65_536, outside: 7, size: 1 },
        ];
        assert_eq!(lines(&map), "0 100000 65536\n65536 7 1\n");
        let read: Option<Vec<Mapping>> = lines(&map).lines().map(parse).collect();
        assert_eq!(read.unwrap(), map);
        assert_eq!(parse("0 1"), None);
    }

    #[test]
    fn map_of_many_long_lines_does_not_fit() {
        let map = |first: u32| -> Vec<Mapping> {
            (0..340).map(|i| Mapping { inside: first + i, outside: first + i, size: 1 }).collect()
        };
        assert!(fits(&map(0)) && !fits(&map(100_000)));
    }
}
