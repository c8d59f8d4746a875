//! A writer of EROFS images: uncompressed, 4096-byte blocks, for Linux 5.10 and later. Knows no
//! tar and no OCI.
//!
//! ```text
//! block 0     superblock
//! data        files' blocks, in the order in which they were written     (DataWriter)
//! metadata    inodes, each with its attributes and its data's tail       (plan, image)
//! folders     the whole blocks of large folders
//! ```
//!
//! Files' data is written as it arrives; everything else is known only when the last layer has
//! been read and comes after it. The same tree, data and UUID give the same bytes.
//!
//! Source: Linux Documentation/filesystems/erofs.rst and the format's own header,
//! fs/erofs/erofs_fs.h of Linux 6.1.

mod data;
mod dirent;
mod format;
mod image;
mod plan;
#[cfg(test)]
pub mod reader;
#[cfg(test)]
mod tests;
mod xattr;

pub use data::{Content, DataError, DataWriter};
pub use image::{Summary, finish};
pub use xattr::{XattrError, is_stored as is_stored_xattr, stored_bytes as stored_xattr_bytes};

/// Size of a block in bytes.
pub const BLOCK_SIZE: usize = 4096;
const BLOCK_SIZE_U64: u64 = 4096;

/// Whether the format can hold a device of these numbers.
pub fn device_fits(major: u32, minor: u32) -> bool {
    format::device_number(major, minor).is_some()
}
