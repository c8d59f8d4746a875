//! Container images out of memory: OCI layouts, OCI archives, and what `docker save` writes.
//!
//! Not a builder of images: no instructions, no base. Equal bit for bit for equal input.

mod layer;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use layer::Layer;

/// OCI image-spec, media types.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Level of zstd's own command line.
const ZSTD_LEVEL: i32 = 3;

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Plain tar.
    Tar,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Packing {
    /// Packs bytes.
    #[must_use]
    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Tar => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
                packed.expect("writing into memory works")
            }
            Self::Zstd => zstd::encode_all(bytes, ZSTD_LEVEL).expect("writing into memory works"),
        }
    }

    fn media_type(self) -> String {
        match self {
            Self::Tar => LAYER.to_owned(),
            Self::Gzip => format!("{LAYER}+gzip"),
            Self::Zstd => format!("{LAYER}+zstd"),
        }
    }
}

/// An image under construction.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<(Vec<u8>, Packing)>,
    config: Value,
}

impl Default for Image {
    fn default() -> Self {
        Self { layers: Vec::new(), config: json!({ "Cmd": ["sh"] }) }
    }
}

/// `sha256:` and the digest in hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The blobs of a layout beside its index, by name.
struct Layout {
    files: Vec<(String, Vec<u8>)>,
}

impl Layout {
    /// Stores a blob and returns its descriptor. OCI image-spec, descriptor.md.
    fn put(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        let name = format!("blobs/{}", digest.replace(':', "/"));
        if !self.files.iter().any(|(other, _)| *other == name) {
            self.files.push((name, bytes));
        }
        descriptor
    }
}

fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

impl Image {
    /// An image without layers whose command is `sh`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a layer on top.
    #[must_use]
    pub fn layer(self, layer: &Layer, packing: Packing) -> Self {
        self.tar(layer.to_tar(), packing)
    }

    /// Puts a layer on top that is packed already.
    #[must_use]
    pub fn tar(mut self, tar: Vec<u8>, packing: Packing) -> Self {
        self.layers.push((tar, packing));
        self
    }

    /// Sets a key of the configuration's `config`: `Cmd`, `Env`, `User`, ...
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn configuration(&self) -> Vec<u8> {
        let diff_ids: Vec<_> = self.layers.iter().map(|(tar, _)| digest(tar)).collect();
        let created = "1970-01-01T00:00:00Z";
        let history: Vec<_> = diff_ids
            .iter()
            .map(|_| json!({ "created": created, "created_by": "a file list" }))
            .collect();
        json_bytes(&json!({
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        }))
    }

    /// The id that a store gives it: the digest of its configuration.
    #[must_use]
    pub fn id(&self) -> String {
        digest(&self.configuration())
    }

    /// The files of an OCI layout: blobs first, the index last, so that whoever finds the index
    /// finds all. OCI image-spec, image-layout.md.
    #[must_use]
    pub fn layout(&self, tag: &str) -> Vec<(String, Vec<u8>)> {
        let mut layout = Layout { files: Vec::new() };
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(tar, packing)| layout.put(&packing.media_type(), packing.pack(tar)))
            .collect();
        let config = layout.put(CONFIG, self.configuration());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
        });
        let mut entry = layout.put(MANIFEST, json_bytes(&manifest));
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let marker = json!({ "imageLayoutVersion": "1.0.0" });
        layout.files.push(("oci-layout".to_owned(), json_bytes(&marker)));
        layout.files.push(("index.json".to_owned(), json_bytes(&index)));
        layout.files
    }

    /// Writes an OCI layout. The folder is made when missing; an older image in it is replaced.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_layout(&self, folder: &Path, tag: &str) -> io::Result<()> {
        for (name, bytes) in self.layout(tag) {
            replace(&folder.join(name), &bytes)?;
        }
        Ok(())
    }

    /// A tar archive of an OCI layout.
    #[must_use]
    pub fn oci_archive(&self, tag: &str) -> Vec<u8> {
        archive(&self.layout(tag))
    }

    /// What `docker save NAME` writes, in the form of the older versions.
    #[must_use]
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let config = self.configuration();
        let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
        let mut files = Vec::new();
        let mut names = Vec::new();
        for (tar, packing) in &self.layers {
            let name = format!("{}/layer.tar", digest(tar).trim_start_matches("sha256:"));
            if !names.contains(&name) {
                files.push((name.clone(), packing.pack(tar)));
            }
            names.push(name);
        }
        let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]);
        files.push((config_name, config));
        files.push(("manifest.json".to_owned(), json_bytes(&manifest)));
        archive(&files)
    }
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let add =
        |layer: Layer, (name, bytes): &(String, Vec<u8>)| layer.file(name, 0o644, bytes.clone());
    files.iter().fold(Layer::new(), add).to_tar()
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension(format!("new{}", std::process::id()));
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}
