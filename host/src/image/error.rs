//! What goes wrong with images, one enum for the store's operations.

use std::io;
use std::path::PathBuf;

use super::archive::ArchiveError;
use super::digest::Digest;
use super::erofs::DataError;
use super::flatten::FlattenError;
use super::layer::LayerError;

/// Why an operation of the image store did not work.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The archive gives no image.
    #[error("load {name}")]
    Archive {
        /// The archive.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ArchiveError,
    },
    /// A layer of the archive cannot be used.
    #[error("load {name}: layer {digest}")]
    Layer {
        /// The archive.
        name: String,
        /// Digest of the layer's blob, or of its tar where the archive has no other.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// The disk of the image cannot be written.
    #[error("load {name}")]
    Disk {
        /// The archive.
        name: String,
        /// Why.
        #[source]
        source: DataError,
    },
    /// No image by that name or id.
    #[error("no such image: {reference}")]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// An id's beginning that several images share.
    #[error("{reference} is the beginning of more than one image id")]
    Ambiguous {
        /// What was asked for.
        reference: String,
    },
    /// A container needs the image.
    #[error("image {reference} is used by container {container}")]
    InUse {
        /// What was asked for.
        reference: String,
        /// The container.
        container: String,
    },
    /// An id of an image with several tags.
    #[error("image {reference} has more than one tag ({}): name one, or force", .tags.join(", "))]
    ManyTags {
        /// What was asked for.
        reference: String,
        /// The tags.
        tags: Vec<String>,
    },
    /// A file of the store is not what it was when it was written.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it shows.
        #[source]
        source: serde_json::Error,
    },
    /// A newer husk wrote the file.
    #[error("{path} is of version {version}, which this husk does not know")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The store's files cannot be read or written.
    #[error("{op} {path}")]
    Store {
        /// What was done.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    pub(super) fn flatten(name: &str, error: FlattenError) -> Self {
        let name = name.to_owned();
        match error {
            FlattenError::Layer { digest, source } => ImageError::Layer { name, digest, source },
            FlattenError::Disk(source) => ImageError::Disk { name, source },
        }
    }
}

/// Names operation and file of a failed system call.
pub(super) trait Context<T> {
    /// The error as the store's: `op` on `path`.
    fn context(self, op: &'static str, path: &std::path::Path) -> Result<T, ImageError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, op: &'static str, path: &std::path::Path) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::Store { op, path: path.to_owned(), source })
    }
}
