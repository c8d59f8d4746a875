//! One layer: from a blob of bytes, through its compression, to checked tar entries.
//! Knows no archives that hold layers, and no tree that they go to.

mod header;
mod pax;
mod sparse;
mod stream;
pub mod tar;

use std::io;

pub use stream::{Compression, LayerStream, Layout, stream_layer};

use super::digest::Digest;
use super::erofs::XattrError;
use super::tree::TreeError;

/// Why a layer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob is not there or cannot be read.
    #[error("read blob")]
    Blob(#[source] io::Error),
    /// The blob's bytes are not those of its digest.
    #[error("digest mismatch: its content is {actual}")]
    Digest {
        /// Digest of the bytes that are there.
        actual: Digest,
    },
    /// The uncompressed layer is not the one that the image's configuration names.
    #[error(
        "digest mismatch: uncompressed it is {actual}, the image's configuration has {expected}"
    )]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// Digest of the uncompressed bytes that are there.
        actual: Digest,
    },
    /// A compression that is not known here.
    #[error("compressed with {0}, which is not supported (tar, gzip and zstd are)")]
    Compression(&'static str),
    /// The tar stream cannot be read.
    #[error(transparent)]
    Tar(#[from] tar::TarError),
    /// An entry that cannot be in an image.
    #[error("entry \"{name}\"")]
    Entry {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: EntryError,
    },
}

/// Why an entry cannot be in an image.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Its place in the tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Its attributes.
    #[error(transparent)]
    Xattr(#[from] XattrError),
    /// A type flag that images do not have.
    #[error("entries of type {0:?} are not supported")]
    Type(char),
    /// A symbolic link that Linux cannot hold.
    #[error("a symbolic link needs a target of 1 to 4095 bytes without NUL")]
    SymlinkTarget,
    /// A device number that Linux cannot hold.
    #[error("device {major}:{minor} is out of range")]
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}
