//! The file behind a disk: whether it can be one, and how large it is. Reads none of it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Whence, lseek};

use super::request::SECTOR_LEN;

/// Why a descriptor is no disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// What it is cannot be read and written at any place.
    #[error("use {0} as a disk: it has to be a file or a block device")]
    Kind(&'static str),
    /// Opened for less than the disk is to do.
    #[error("use a file as a disk: it is not open for {0}")]
    Access(&'static str),
    /// Opened in a way that a disk cannot work with.
    #[error("use a file as a disk: it is open with {0}")]
    Flag(&'static str),
    /// Nothing to read.
    #[error("use a file as a disk: it is empty")]
    Empty,
    /// Its last sector is none.
    #[error("use a file as a disk: {len} bytes are no multiple of {SECTOR_LEN}")]
    Length {
        /// Of the file.
        len: u64,
    },
    /// The descriptor is good for nothing.
    #[error("look at the file of a disk")]
    Look(#[source] io::Error),
}

impl From<Errno> for ImageError {
    fn from(error: Errno) -> Self {
        Self::Look(error.into())
    }
}

/// A file that can be a disk.
#[derive(Debug)]
pub struct Image {
    file: File,
    sectors: u64,
}

impl Image {
    /// Looks at an open descriptor. What it holds is raw, whatever it looks like.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn new(descriptor: OwnedFd, read_only: bool) -> Result<Self, ImageError> {
        let file = File::from(descriptor);
        let status = fstat(&file)?;
        let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        match kind {
            SFlag::S_IFREG | SFlag::S_IFBLK => {}
            other => return Err(ImageError::Kind(name(other))),
        }
        check_flags(&file, read_only)?;
        // A block device has no size of its own in its inode.
        let end = lseek(&file, 0, Whence::SeekEnd)?;
        let len = u64::try_from(end).map_err(|_| Errno::EOVERFLOW)?;
        match len {
            0 => Err(ImageError::Empty),
            len if !len.is_multiple_of(SECTOR_LEN) => Err(ImageError::Length { len }),
            len => Ok(Self { file, sectors: len / SECTOR_LEN }),
        }
    }

    /// Capacity.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The file, for an engine.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

fn check_flags(file: &File, read_only: bool) -> Result<(), ImageError> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_PATH) {
        return Err(ImageError::Access("reading"));
    }
    match flags & OFlag::O_ACCMODE {
        OFlag::O_RDWR => {}
        OFlag::O_RDONLY if read_only => {}
        OFlag::O_RDONLY => return Err(ImageError::Access("writing")),
        _ => return Err(ImageError::Access("reading")),
    }
    // Writes would go to the end, wherever they are meant for. pwrite(2), BUGS.
    if flags.contains(OFlag::O_APPEND) {
        return Err(ImageError::Flag("O_APPEND"));
    }
    // The guest's buffers are aligned as the guest likes.
    if flags.contains(OFlag::O_DIRECT) {
        return Err(ImageError::Flag("O_DIRECT"));
    }
    Ok(())
}

fn name(kind: SFlag) -> &'static str {
    match kind {
        SFlag::S_IFDIR => "a folder",
        SFlag::S_IFIFO => "a pipe",
        SFlag::S_IFCHR => "a character device",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFLNK => "a symbolic link",
        _ => "what is no file",
    }
}

#[cfg(test)]
mod tests;
