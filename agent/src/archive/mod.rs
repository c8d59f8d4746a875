//! Tar streams of files below a root that may be hostile, in both directions. Knows nothing of
//! containers. Every name is resolved inside of the root; nothing but regular files and folders is
//! ever opened, and those only once they are known to be such.

mod blocks;
mod pack;
mod unpack;

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use husk_protocols::error::ErrorKind;
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    sys::stat::{FileStat, fstat, fstatat},
};

pub use pack::pack;
pub use unpack::{Owner, unpack};

use crate::{failure::errno_kind, mount::Root};

/// PATH_MAX: longer names cannot be used in any call.
const MAX_NAME_LEN: usize = 4096;
/// Deepest folder: each level holds two descriptors.
const MAX_DEPTH: usize = 100;

/// Why a copy ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A call on a file.
    #[error("{operation} {path:?}")]
    Call {
        /// What was done.
        operation: &'static str,
        /// To which.
        path: PathBuf,
        /// The result of the call.
        #[source]
        source: Errno,
    },
    /// A path or an entry that makes no sense.
    #[error("{path:?}: {reason}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// In which way.
        reason: &'static str,
    },
    /// An entry of a kind that is not done.
    #[error("{path:?}: entries of type {kind:?} are not supported")]
    Unsupported {
        /// Which.
        path: PathBuf,
        /// Its letter.
        kind: char,
    },
    /// The stream has ended within the archive. What was extracted before is there.
    #[error("the archive ends early, in {0}")]
    Truncated(String),
    /// What came is no archive.
    #[error("the archive is broken after {entries} entries: {reason}")]
    Broken {
        /// Those that were whole.
        entries: u64,
        /// In which way.
        reason: &'static str,
    },
    /// The stream.
    #[error("{0} the stream")]
    Stream(&'static str, #[source] io::Error),
}

type Result<T> = std::result::Result<T, ArchiveError>;

impl ArchiveError {
    fn call(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Call { operation, path: path.into(), source }
    }

    fn invalid(path: impl Into<PathBuf>, reason: &'static str) -> Self {
        Self::Invalid { path: path.into(), reason }
    }

    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Call { source: Errno::ENOENT, .. } => ErrorKind::NotFound,
            Self::Call { source, .. } => errno_kind(*source),
            Self::Invalid { .. } | Self::Truncated(_) | Self::Broken { .. } => ErrorKind::Invalid,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Stream(..) => ErrorKind::Internal,
        }
    }
}

/// What went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Of the archive.
    pub entries: u64,
    /// Of regular files.
    pub bytes: u64,
}

/// What a path leads to, symbolic links as its last part not being followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatus {
    /// Last part of the path.
    pub name: OsString,
    /// In bytes.
    pub size: u64,
    /// With the type.
    pub mode: u32,
    /// Since 1970.
    pub mtime_s: i64,
    /// Of a symbolic link.
    pub link_target: Option<OsString>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A path as the host gives it: where its last part lies, and what it is called in an archive.
struct Subject {
    folder: std::os::fd::OwnedFd,
    /// `.` for the folder itself.
    name: OsString,
}

impl Subject {
    fn find(root: BorrowedFd<'_>, path: &Path) -> Result<Self> {
        let invalid = |reason| Err(ArchiveError::invalid(path, reason));
        if path.as_os_str().len() >= MAX_NAME_LEN || !path.is_absolute() {
            return invalid("is no absolute path");
        }
        let text = path.as_os_str().as_bytes();
        let whole = text.ends_with(b"/.") || text == b"/";
        let (folder, name) = match path.file_name() {
            _ if whole => (path, OsString::from(".")),
            Some(name) => (path.parent().unwrap_or(path), name.to_owned()),
            None => return invalid("has no last part"),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let folder =
            Root::new(root).open(folder, flags).map_err(ArchiveError::call("find", path))?;
        Ok(Self { folder, name })
    }
}

/// Looks at a file.
///
/// # Errors
/// [`ArchiveError`].
pub fn status(root: BorrowedFd<'_>, path: &Path) -> Result<FileStatus> {
    let subject = Subject::find(root, path)?;
    let stat = fstatat(&subject.folder, subject.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(ArchiveError::call("find", path))?;
    let link_target = match stat.st_mode & libc::S_IFMT {
        libc::S_IFLNK => nix::fcntl::readlinkat(&subject.folder, subject.name.as_os_str()).ok(),
        _ => None,
    };
    Ok(FileStatus {
        name: subject.name,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        mode: stat.st_mode,
        mtime_s: stat.st_mtime,
        link_target,
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

/// The name under which the kernel opens again what a descriptor refers to, whatever has happened
/// to its path meanwhile.
fn again(fd: impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}

fn stat_of(fd: impl AsFd, path: &Path) -> Result<FileStat> {
    fstat(fd).map_err(ArchiveError::call("look at", path))
}
