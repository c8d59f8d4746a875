//! The descriptor-based mount calls: fsopen(2), fsconfig(2), fsmount(2), open_tree(2),
//! move_mount(2), mount_setattr(2). A mount is a descriptor until it is attached, so that a set-up
//! that stops half-way leaves nothing.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::errno::Errno;

use super::Result;

/// linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// Longest line that the kernel says about a failed mount.
const MAX_MESSAGE: usize = 256;

/// Attributes of a mount, as `struct mount_attr` has them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
}

/// `MOUNT_ATTR_IDMAP`, linux/mount.h.
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// Whether a call is about one mount or all below it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// This mount.
    One,
    /// This mount and those below.
    Tree,
}

impl Depth {
    fn flag(self) -> libc::c_uint {
        match self {
            Self::One => 0,
            Self::Tree => AT_RECURSIVE,
        }
    }
}

fn descriptor(result: libc::c_long) -> Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: a non-negative result of these calls is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file system that is being configured.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// fsopen(2).
    ///
    /// # Errors
    /// `ENODEV` when the kernel has no such file system.
    pub fn open(fstype: &str) -> Result<Self> {
        let fstype = CString::new(fstype).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the name is a terminated string that outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
        descriptor(result).map(Self)
    }

    /// Sets `key` to `value`, or as a flag where there is none.
    ///
    /// # Errors
    /// `EINVAL` for an option that the file system does not have.
    pub fn set(&self, key: &str, value: Option<&str>) -> Result<()> {
        let key = CString::new(key).map_err(|_| Errno::EINVAL)?;
        match value {
            None => self.configure(FSCONFIG_SET_FLAG, Some(&key), None),
            Some(value) => {
                let value = CString::new(value).map_err(|_| Errno::EINVAL)?;
                self.configure(FSCONFIG_SET_STRING, Some(&key), Some(&value))
            }
        }
    }

    fn configure(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> Result<()> {
        // SAFETY: key and value are null or terminated strings that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                key.map_or(ptr::null(), CStr::as_ptr),
                value.map_or(ptr::null(), CStr::as_ptr),
                0,
            )
        };
        Errno::result(result).map(drop)
    }

    /// Makes the superblock and a detached mount of it with these `MOUNT_ATTR_*`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: the descriptor is an fs context; the other arguments are plain numbers.
        let result = unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes)
        };
        descriptor(result)
    }

    /// What the file system said about the last failure, if anything.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        let mut buffer = [0; MAX_MESSAGE];
        let len = nix::unistd::read(&self.0, &mut buffer).ok()?;
        let text = String::from_utf8_lossy(buffer.get(..len)?);
        // "e overlay: text": the level and the file system come first.
        let text = text.get(2..).unwrap_or(&text).trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// A detached copy of the mount at `at`, which may be an `O_PATH` descriptor of any file.
///
/// # Errors
/// `EINVAL` when `at` is not in the caller's mount namespace.
pub fn clone_tree(at: BorrowedFd<'_>, depth: Depth) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC.cast_unsigned()
        | libc::AT_EMPTY_PATH.cast_unsigned()
        | depth.flag();
    // SAFETY: the path is a static terminated string.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) };
    descriptor(result)
}

/// Attaches a detached mount on the file or folder `onto`.
///
/// # Errors
/// As move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: both paths are static terminated strings.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            onto.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}

/// Changes the attributes of a mount, given a descriptor of its root.
///
/// # Errors
/// As mount_setattr(2).
pub fn set_attributes(mount: BorrowedFd<'_>, change: Attributes, depth: Depth) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    mount_setattr(mount, &attributes, depth)
}

/// Maps the ids of a detached mount as a user namespace has them.
///
/// # Errors
/// `EINVAL` for a file system that cannot have it, `EPERM` when they are mapped already.
pub fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>, depth: Depth) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(user_namespace.as_raw_fd().cast_unsigned()),
    };
    mount_setattr(mount, &attributes, depth)
}

fn mount_setattr(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, depth: Depth) -> Result<()> {
    // SAFETY: the structure is initialised, its size is passed, and the path is a static string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH.cast_unsigned() | depth.flag(),
            ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}
