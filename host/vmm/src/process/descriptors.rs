//! The descriptors that the process inherits, each turned from a number into an owner exactly once,
//! and checked to be what it is for.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::config::Role;

/// A descriptor that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Nobody opened it.
    #[error("descriptor {number} of the {role} is not open")]
    NotOpen {
        /// Its number.
        number: RawFd,
        /// What for.
        role: Role,
    },
    /// It is something else.
    #[error("descriptor {number} of the {role} is no {expected}")]
    Kind {
        /// Its number.
        number: RawFd,
        /// What for.
        role: Role,
        /// What it should be.
        expected: &'static str,
    },
    /// Of fcntl(2) or fstat(2).
    #[error("examine descriptor {number} of the {role}")]
    Examine {
        /// Its number.
        number: RawFd,
        /// What for.
        role: Role,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The process has done it before.
    #[error("inherited descriptors are taken over once")]
    Again,
}

/// Descriptors by the numbers that the configuration gives them.
#[derive(Debug)]
pub struct Descriptors(BTreeMap<RawFd, OwnedFd>);

impl Descriptors {
    /// Takes over what the process inherited. To be called once, before the process opens anything.
    ///
    /// # Errors
    /// [`DescriptorError`].
    pub fn inherit(wanted: &[(RawFd, Role)]) -> Result<Self, DescriptorError> {
        static INHERITED: AtomicBool = AtomicBool::new(false);
        if INHERITED.swap(true, Ordering::SeqCst) {
            return Err(DescriptorError::Again);
        }
        // SAFETY: the process has just begun, opened nothing and took over nothing: what is open
        // beyond the standard streams was inherited, and nobody owns it.
        unsafe { Self::take_over(wanted) }
    }

    /// # Safety
    /// Descriptors of these numbers, where open, have no owner.
    unsafe fn take_over(wanted: &[(RawFd, Role)]) -> Result<Self, DescriptorError> {
        let mut taken = BTreeMap::new();
        for &(number, role) in wanted {
            if number < 0 || taken.contains_key(&number) {
                return Err(DescriptorError::NotOpen { number, role });
            }
            // SAFETY: not -1; if it is closed, the call below says so and nothing else uses it.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            examine(descriptor, role).map_err(|unfit| unfit.into_error(number, role))?;
            // SAFETY: it is open, has no owner by the contract of this function, and was not taken
            // over by an earlier turn of the loop.
            taken.insert(number, unsafe { OwnedFd::from_raw_fd(number) });
        }
        Ok(Self(taken))
    }

    /// The owner of a descriptor: its number was wanted, and is asked for once.
    ///
    /// # Panics
    /// When not, which is a mistake of the caller.
    #[must_use]
    pub fn take(&mut self, number: RawFd) -> OwnedFd {
        self.0.remove(&number).expect("every descriptor of the configuration is taken once")
    }

    /// All that are still here.
    pub fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.values().map(AsFd::as_fd)
    }
}

enum Unfit {
    NotOpen,
    Kind(&'static str),
    Examine(Errno),
}

impl Unfit {
    fn into_error(self, number: RawFd, role: Role) -> DescriptorError {
        match self {
            Self::NotOpen => DescriptorError::NotOpen { number, role },
            Self::Kind(expected) => DescriptorError::Kind { number, role, expected },
            Self::Examine(source) => {
                DescriptorError::Examine { number, role, source: source.into() }
            }
        }
    }
}

impl From<Errno> for Unfit {
    fn from(error: Errno) -> Self {
        match error {
            Errno::EBADF => Self::NotOpen,
            other => Self::Examine(other),
        }
    }
}

fn examine(descriptor: BorrowedFd<'_>, role: Role) -> Result<(), Unfit> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let flags = OFlag::from_bits_truncate(fcntl(descriptor, FcntlArg::F_GETFL)?);
    let stat = fstat(descriptor)?;
    match role {
        Role::Kvm | Role::Tap => kind(&stat, SFlag::S_IFCHR, "character device")?,
        Role::Kernel | Role::Initramfs | Role::Disk { .. } => {
            kind(&stat, SFlag::S_IFREG, "regular file")?;
        }
        Role::Control | Role::Streams => {
            socket(descriptor, &stat, SockType::SeqPacket, "socket that keeps bounds of messages")?;
        }
        Role::Share => socket(descriptor, &stat, SockType::Stream, "stream socket")?,
        Role::Console | Role::ConsoleInput => {}
    }
    let access = flags & OFlag::O_ACCMODE;
    let readable = access != OFlag::O_WRONLY;
    let writable = access != OFlag::O_RDONLY;
    match role {
        Role::Console if !writable => Err(Unfit::Kind("file open for writing")),
        Role::Kernel | Role::Initramfs | Role::ConsoleInput if !readable => {
            Err(Unfit::Kind("file open for reading"))
        }
        Role::Disk { read_only: true } if !readable => Err(Unfit::Kind("file open for reading")),
        Role::Disk { read_only: false } if !(readable && writable) => {
            Err(Unfit::Kind("file open for reading and writing"))
        }
        _ => Ok(()),
    }
}

fn kind(stat: &FileStat, expected: SFlag, name: &'static str) -> Result<(), Unfit> {
    let found = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if found == expected { Ok(()) } else { Err(Unfit::Kind(name)) }
}

fn socket(
    descriptor: BorrowedFd<'_>,
    stat: &FileStat,
    expected: SockType,
    name: &'static str,
) -> Result<(), Unfit> {
    kind(stat, SFlag::S_IFSOCK, name)?;
    if getsockopt(&descriptor, sockopt::SockType)? == expected {
        return Ok(());
    }
    Err(Unfit::Kind(name))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::channel::Channel;

    fn take_over(wanted: &[(RawFd, Role)]) -> Result<Descriptors, DescriptorError> {
        // SAFETY: the tests give numbers of descriptors that they let go of, or of none.
        unsafe { Descriptors::take_over(wanted) }
    }

    fn refusal(descriptor: impl Into<OwnedFd>, role: Role) -> String {
        // Left open: a number that is used again would be another test's.
        let number = descriptor.into().into_raw_fd();
        take_over(&[(number, role)]).unwrap_err().to_string()
    }

    #[test]
    fn descriptor_of_the_right_kind_is_taken_over_once() {
        let number = OwnedFd::from(tempfile::tempfile().unwrap()).into_raw_fd();
        let mut taken = take_over(&[(number, Role::Disk { read_only: false })]).unwrap();
        assert_eq!(taken.all().count(), 1);
        let flags = fcntl(taken.take(number), FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, FdFlag::FD_CLOEXEC.bits());
    }

    #[test]
    fn number_of_nothing_or_of_two_things_is_refused() {
        for number in [-1, 1_000_000] {
            let error = take_over(&[(number, Role::Kernel)]).unwrap_err();
            assert_eq!(error.to_string(), format!("descriptor {number} of the kernel is not open"));
        }
        let number = OwnedFd::from(tempfile::tempfile().unwrap()).into_raw_fd();
        assert!(take_over(&[(number, Role::Kernel), (number, Role::Initramfs)]).is_err());
    }

    #[test]
    fn descriptor_of_another_kind_is_refused() {
        let folder = || File::open("/").unwrap();
        let null = || File::open("/dev/null").unwrap();
        for role in [Role::Kernel, Role::Initramfs, Role::Disk { read_only: true }] {
            assert!(refusal(folder(), role).ends_with("is no regular file"));
            assert!(refusal(null(), role).ends_with("is no regular file"));
        }
        assert!(refusal(folder(), Role::Kvm).ends_with("is no character device"));
        assert!(refusal(null(), Role::Control).contains("is no socket"));
        let (stream, other) = UnixStream::pair().unwrap();
        assert!(refusal(stream, Role::Streams).contains("is no socket"));
        let (messages, _peer) = Channel::pair().unwrap();
        assert!(refusal(messages, Role::Share).ends_with("is no stream socket"));
        drop(other);
    }

    #[test]
    fn file_that_is_open_the_wrong_way_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read_only = || File::open(file.path()).unwrap();
        let write_only = || File::options().write(true).open(file.path()).unwrap();
        assert!(refusal(read_only(), Role::Disk { read_only: false }).contains("and writing"));
        assert!(refusal(write_only(), Role::Disk { read_only: true }).contains("for reading"));
        assert!(refusal(write_only(), Role::Kernel).contains("for reading"));
        assert!(refusal(read_only(), Role::Console).contains("for writing"));
    }
}
