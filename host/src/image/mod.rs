//! Images: from an archive or a folder to one read-only EROFS disk, content-addressed, shared by
//! all containers of the image. Knows no containers and no VMs. Everything here blocks.
//!
//! ```text
//! Source -> archive (index, manifest, configuration) -> layer (digest, compression, tar)
//!        -> tree (whiteouts, links) + erofs (data) -> store (by id, with tags)
//! ```

mod archive;
mod config;
mod digest;
mod erofs;
mod error;
#[cfg(test)]
mod fixture;
mod flatten;
mod layer;
pub mod progress;
mod reference;
mod source;
mod store;
mod tree;

pub use archive::ArchiveError;
pub use digest::{Digest, DigestError, ImageId};
pub use error::ImageError;
pub(crate) use layer::tar;
pub use layer::{EntryError, LayerError};
pub use progress::Progress;
pub use reference::{Reference, ReferenceError};
pub use source::{Format, Place, Source, SourceError};
pub use store::{Image, ImageStore, LayerInfo, Pin, Removed};
