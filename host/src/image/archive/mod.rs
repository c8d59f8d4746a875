//! Where images come from when they come as files: an OCI layout folder, or a tar archive of one,
//! or one that `docker save` made. Finds the images in it and checks everything but the layers,
//! which are checked while they are read. Knows no store.

mod container;
mod docker;
mod oci;

use std::io;
use std::path::Path;

pub use container::Container;

use super::config::parse_config;
use super::digest::{Digest, DigestError};
use super::layer::Layout;
use super::layer::tar::TarError;
use super::progress::Progress;
use super::reference::Reference;
use super::source::{Format, Place, Source};

/// Most bytes of an index, a manifest or a configuration.
const MAX_JSON: u64 = 8 << 20;
/// Most layers of an image.
const MAX_LAYERS: usize = 1024;

/// Why an archive gives no images.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be opened or read.
    #[error("{op}")]
    Io {
        /// What was done.
        op: &'static str,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
    /// It is neither of the formats.
    #[error("neither an OCI image layout nor a docker archive: it has no {missing}")]
    Format {
        /// The file that would tell.
        missing: &'static str,
    },
    /// A compression that is not supported.
    #[error("compressed with {0}, which is not supported (tar, gzip and zstd are)")]
    Compression(&'static str),
    /// The tar around it cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A file that must be there is not.
    #[error("{what} is missing ({path})")]
    Missing {
        /// What it is.
        what: String,
        /// Its name in the archive.
        path: String,
    },
    /// A file that is larger than any honest one.
    #[error("{what} is larger than {MAX_JSON} bytes")]
    TooLarge {
        /// What it is.
        what: String,
    },
    /// A file whose content is not what it must be.
    #[error("{what} is not valid")]
    Json {
        /// What it is.
        what: String,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// A digest that is none.
    #[error(transparent)]
    DigestSyntax(#[from] DigestError),
    /// Content of the wrong size.
    #[error("{what} has {actual} bytes, {expected} were expected")]
    Size {
        /// What it is.
        what: String,
        /// Size as its descriptor says.
        expected: u64,
        /// Size as it is.
        actual: u64,
    },
    /// Content that is not that of its digest.
    #[error("{what}: digest mismatch: its content is {actual}")]
    Digest {
        /// What it is.
        what: String,
        /// Digest of what is there.
        actual: Digest,
    },
    /// Nothing by that tag.
    #[error("no image {wanted:?} in it{}", list_known(.known))]
    NoSuchImage {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Images for other machines only.
    #[error("no image for linux/amd64 in it, only for {}", .found.join(", "))]
    Platform {
        /// Platforms that there are.
        found: Vec<String>,
    },
    /// Anything else that an honest archive has not.
    #[error("{what}: {why}")]
    Shape {
        /// What it is about.
        what: String,
        /// What is wrong.
        why: &'static str,
    },
}

fn list_known(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" (it has {})", names.join(", ")) }
}

/// An image found in an archive; its layers are still to be read.
#[derive(Debug)]
pub struct Found {
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// Digest of the manifest, where there is one.
    pub manifest: Option<Digest>,
    /// The layers, the lowest first.
    pub layers: Vec<FoundLayer>,
    /// The names that the archive gives it.
    pub names: Vec<Reference>,
}

/// A layer in an archive.
#[derive(Debug)]
pub struct FoundLayer {
    /// What it must be.
    pub layout: Layout,
    /// Size in bytes as it is stored.
    pub bytes: u64,
    /// Media type as the manifest has it, or what docker would call it.
    pub media_type: String,
    /// Its name in the archive.
    pub path: String,
}

/// Opens the archive of `source`. What cannot be read in any order (a stream, a compressed
/// archive) is first written to a file in `spool`. Blocks on the disk and on standard input.
pub fn open(
    source: &Source,
    spool: &Path,
    progress: &dyn Progress,
) -> Result<Container, ArchiveError> {
    match &source.place {
        Place::Stdin => Container::spooled(&mut io::stdin().lock(), spool, progress),
        Place::Path(path) if source.format == Format::OciLayout || path.is_dir() => {
            Container::folder(path)
        }
        Place::Path(path) => Container::tar(path, spool, progress),
    }
}

/// The images in `container`: those that `source` asks for, or all. At least one.
pub fn find(container: &Container, source: &Source) -> Result<Vec<Found>, ArchiveError> {
    let is_oci = match source.format {
        Format::OciLayout | Format::OciArchive => true,
        Format::DockerArchive => false,
        Format::Any => container.has("index.json"),
    };
    let wanted = source.reference.as_deref();
    if is_oci {
        if !container.has("index.json") {
            return Err(ArchiveError::Format { missing: "index.json" });
        }
        oci::find(container, wanted, source.name_hint().as_deref())
    } else {
        if !container.has("manifest.json") {
            return Err(ArchiveError::Format { missing: "manifest.json" });
        }
        docker::find(container, wanted)
    }
}

/// Checks that the configuration is for this machine and has as many layers as the manifest, and
/// gives their diff ids.
fn diff_ids(config: &[u8], layer_count: usize) -> Result<Vec<Digest>, ArchiveError> {
    let what = "the image's configuration";
    let config = parse_config(config)
        .map_err(|source| ArchiveError::Json { what: what.to_owned(), source })?;
    let platform = format!("{}/{}", config.os(), config.architecture());
    if platform != "linux/amd64" {
        return Err(ArchiveError::Platform { found: vec![platform] });
    }
    let ids = config.rootfs().diff_ids();
    let shape = |why| ArchiveError::Shape { what: what.to_owned(), why };
    if ids.len() != layer_count {
        return Err(shape("its number of layers is not the manifest's"));
    }
    if ids.len() > MAX_LAYERS {
        return Err(shape("it has more than 1024 layers"));
    }
    ids.iter().map(|id| Ok(id.parse()?)).collect()
}

fn parse_json<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    what: impl FnOnce() -> String,
) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Json { what: what(), source })
}
