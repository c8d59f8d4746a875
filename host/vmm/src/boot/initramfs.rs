//! The initramfs: at the end of the memory below the hole, so that the kernel may grow.

use std::fs::File;
use std::io;
use std::ops::Range;

use crate::Memory;
use crate::memory::{self, PAGE_SIZE};

/// Why an initramfs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A folder, a pipe, a device.
    #[error("the initramfs is no regular file")]
    NotRegular,
    /// Nothing in it.
    #[error("the initramfs is empty")]
    Empty,
    /// Memory cannot hold it.
    #[error("the initramfs has {len} bytes, and memory beside the kernel takes {room}")]
    TooLarge {
        /// Its bytes.
        len: u64,
        /// The bytes below the hole and above the kernel.
        room: u64,
    },
    /// It could not be read, or was cut off meanwhile.
    #[error("read the initramfs")]
    Read(#[source] io::Error),
}

/// Where it goes in the memory that is `free`: its whole pages end where that ends.
///
/// # Errors
/// [`InitramfsError`].
pub fn place(file: &File, free: Range<u64>) -> Result<Range<u64>, InitramfsError> {
    let metadata = file.metadata().map_err(InitramfsError::Read)?;
    if !metadata.is_file() {
        return Err(InitramfsError::NotRegular);
    }
    let len = metadata.len();
    if len == 0 {
        return Err(InitramfsError::Empty);
    }
    let room = free.end.saturating_sub(free.start);
    let start = free
        .end
        .checked_sub(len)
        .map(|start| start / PAGE_SIZE * PAGE_SIZE)
        .filter(|&start| start >= free.start)
        .ok_or(InitramfsError::TooLarge { len, room })?;
    Ok(start..start + len)
}

/// Copies it to where [`place`] put it. What was appended meanwhile is left out.
///
/// # Errors
/// [`InitramfsError::Read`].
pub fn load(file: &File, place: &Range<u64>, memory: &Memory) -> Result<(), InitramfsError> {
    memory::copy_from_file(memory, place.start, file, 0, place.end - place.start)
        .map_err(InitramfsError::Read)
}
