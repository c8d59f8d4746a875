//! Images for tests, made in code: layers by the tar crate, archives around them by hand.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::digest::Digest;

/// A layer under construction.
pub struct LayerBuilder {
    tar: tar::Builder<Vec<u8>>,
}

/// An entry's attributes; the rest of its header is what the entry is.
#[derive(Clone, Copy)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
}

/// What most entries have.
pub const PLAIN: Attributes = Attributes { mode: 0o644, uid: 0, gid: 0, mtime: 1_700_000_000 };

impl Attributes {
    pub fn header(self, kind: tar::EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size.try_into().unwrap());
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        header
    }
}

impl LayerBuilder {
    pub fn new() -> Self {
        LayerBuilder { tar: tar::Builder::new(Vec::new()) }
    }

    pub fn dir(self, name: &str) -> Self {
        let header = Attributes { mode: 0o755, ..PLAIN }.header(tar::EntryType::Directory, 0);
        self.entry(header, name, b"")
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(PLAIN.header(tar::EntryType::Regular, data.len()), name, data)
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link(tar::EntryType::Symlink, name, target)
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(tar::EntryType::Link, name, target)
    }

    fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        let mut header = PLAIN.header(kind, 0);
        self.tar.append_link(&mut header, name, target).unwrap();
        self
    }

    /// An entry whose name the tar crate accepts.
    pub fn entry(mut self, mut header: tar::Header, name: &str, data: &[u8]) -> Self {
        self.tar.append_data(&mut header, name, data).unwrap();
        self
    }

    /// An entry whose name, and link if it has one, go into the header as they are.
    pub fn raw(mut self, mut header: tar::Header, name: &[u8], link: &[u8], data: &[u8]) -> Self {
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.tar.append(&header, data).unwrap();
        self
    }

    /// A pax header for the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.tar.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().unwrap()
    }
}

/// How layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Tar,
    Gzip,
    Zstd,
}

impl Stored {
    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Stored::Tar => bytes.to_vec(),
            Stored::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Stored::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }
}

/// An image of these layers.
pub struct TestImage {
    pub layers: Vec<Vec<u8>>,
    pub stored: Stored,
    pub architecture: &'static str,
}

/// A blob and its descriptor.
struct Blob {
    bytes: Vec<u8>,
    digest: Digest,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Blob { digest: Digest::of(&bytes), bytes }
    }

    fn descriptor(&self, media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

impl TestImage {
    pub fn new(layers: Vec<Vec<u8>>) -> Self {
        TestImage { layers, stored: Stored::Gzip, architecture: "amd64" }
    }

    pub fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "2024-05-06T07:08:09Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        config.to_string().into_bytes()
    }

    /// Files of an OCI layout: name and bytes, the index last.
    pub fn layout(&self, tag: &str) -> Vec<(String, Vec<u8>)> {
        let layers: Vec<Blob> =
            self.layers.iter().map(|layer| Blob::new(self.stored.pack(layer))).collect();
        let layer_type = "application/vnd.oci.image.layer.v1.tar";
        let config = Blob::new(self.config());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": layers.iter().map(|l| l.descriptor(layer_type)).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(manifest.to_string().into_bytes());
        let mut top = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        top["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "manifests": [top]});

        let blobs = layers.into_iter().chain([config, manifest]);
        let mut files: Vec<(String, Vec<u8>)> =
            blobs.map(|blob| (format!("blobs/sha256/{}", blob.digest.hex()), blob.bytes)).collect();
        files.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        files
    }

    /// Files of a docker archive with these tags.
    pub fn docker(&self, tags: &[&str]) -> Vec<(String, Vec<u8>)> {
        let config = Blob::new(self.config());
        let config_name = format!("{}.json", config.digest.hex());
        let names: Vec<String> = (0..self.layers.len()).map(|n| format!("{n}/layer.tar")).collect();
        let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
        let layers = self.layers.iter().map(|layer| self.stored.pack(layer));
        let mut files: Vec<(String, Vec<u8>)> = names.iter().cloned().zip(layers).collect();
        files.push((config_name, config.bytes));
        files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        files
    }
}

/// Writes files below a folder.
pub fn write_folder(files: &[(String, Vec<u8>)], folder: &Path) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Files as a tar archive.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = LayerBuilder::new();
    for (name, bytes) in files {
        builder = builder.file(name, bytes);
    }
    builder.finish()
}

/// An error and all its causes, as the command line prints them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        text = format!("{text}: {source}");
        error = source;
    }
    text
}
