//! What is stored of one image beside its disk.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::super::config::parse_config;
use super::super::digest::{Digest, ImageId};
use super::super::error::{Context, ImageError};

const VERSION: u32 = 1;
pub const DISK: &str = "disk.erofs";
pub const CONFIG: &str = "config.json";
pub const MANIFEST: &str = "manifest.json";

/// A stored image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The sha256 of the configuration, as docker's image id.
    pub id: ImageId,
    /// Its whole names, sorted.
    pub tags: Vec<String>,
    /// Its configuration: environment, command, history and so on.
    pub config: ImageConfiguration,
    /// The configuration as the image brought it, with what [`ImageConfiguration`] leaves out.
    pub config_file: PathBuf,
    /// The EROFS file, never changed.
    pub disk: PathBuf,
    /// Size on disk in bytes, without the holes of the file.
    pub size_bytes: u64,
    /// When the image says it was made.
    pub created: Option<jiff::Timestamp>,
    /// Digest of the manifest that it was loaded by; docker archives have none.
    pub manifest_digest: Option<Digest>,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerInfo>,
}

/// What is known of a layer that went into a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Digest of the blob that it was read from, where the archive had one.
    pub digest: Option<Digest>,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Size of the blob in bytes.
    pub size_bytes: u64,
    /// Media type of the blob.
    pub media_type: String,
}

/// `manifest.json` of the store.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    id: ImageId,
    manifest_digest: Option<Digest>,
    layers: Vec<LayerInfo>,
    size_bytes: u64,
}

impl Record {
    /// A record as this version writes it.
    pub fn new(
        id: ImageId,
        manifest_digest: Option<Digest>,
        layers: Vec<LayerInfo>,
        size_bytes: u64,
    ) -> Self {
        Record { version: VERSION, id, manifest_digest, layers, size_bytes }
    }

    /// The file's content.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("numbers and strings are JSON")
    }
}

/// Reads the image in `folder`.
pub fn read(folder: &Path, id: &ImageId, tags: Vec<String>) -> Result<Image, ImageError> {
    let record: Record = read_json(&folder.join(MANIFEST), id)?;
    if record.version != VERSION {
        let path = folder.join(MANIFEST);
        return Err(ImageError::Version { path, version: record.version });
    }
    let config_file = folder.join(CONFIG);
    let bytes = read_file(&config_file, id)?;
    let config = parse_config(&bytes)
        .map_err(|source| ImageError::Damaged { path: config_file.clone(), source })?;
    Ok(Image {
        id: id.clone(),
        tags,
        created: config.created().as_ref().and_then(|time| time.parse().ok()),
        config,
        config_file,
        disk: folder.join(DISK),
        size_bytes: record.size_bytes,
        manifest_digest: record.manifest_digest,
        layers: record.layers,
    })
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path, id: &ImageId) -> Result<T, ImageError> {
    serde_json::from_slice(&read_file(path, id)?)
        .map_err(|source| ImageError::Damaged { path: path.to_owned(), source })
}

fn read_file(path: &Path, id: &ImageId) -> Result<Vec<u8>, ImageError> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(ImageError::NotFound { reference: id.to_string() })
        }
        result => result.context("read", path),
    }
}
