//! Extended attributes: xattr(7).
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::errno::Errno;

use super::Result;

/// Longest value that is read; those of capabilities have 24 bytes.
const MAX_LEN: usize = 4096;

/// The value of an attribute of an open file; nothing where there is none.
#[must_use]
pub fn get(file: BorrowedFd<'_>, name: &str) -> Option<Vec<u8>> {
    let name = CString::new(name).ok()?;
    let mut value = vec![0; MAX_LEN];
    // SAFETY: the name is terminated, and the buffer has the length that is passed.
    let len = unsafe {
        libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    value.truncate(usize::try_from(len).ok()?);
    Some(value)
}

/// Sets an attribute of an open file.
///
/// # Errors
/// As fsetxattr(2).
pub fn set(file: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the name is terminated, and pointer and length are those of one slice.
    let result = unsafe {
        libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(result).map(drop)
}
