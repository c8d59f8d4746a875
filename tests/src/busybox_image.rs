//! A small container image out of one static program: busybox, its applets as links, and the few
//! files that a shell and user names need. An OCI image layout, equal bit for bit for equal input.
//!
//! Not a builder of images: no second layer, no instructions.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// OCI image-spec, media types.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The tag of the image in its layout. OCI image-spec, `org.opencontainers.image.ref.name`.
const TAG: &str = "latest";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const FOLDERS: [(&str, u32); 19] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("usr/local/sbin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/tmp", 0o1777),
];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                      user:x:1000:1000:user:/home:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\naudio:x:29:user\nuser:x:1000:\nnogroup:x:65534:\n";
const PROFILE: &str = "PS1='\\w \\$ '\n";

/// The applets of a busybox, as paths from the root without a leading slash, sorted.
///
/// # Errors
/// The program does not start or knows no `--list-full`.
pub fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox)
        .arg("--list-full")
        .output()
        .with_context(|| format!("run {}", busybox.display()))?;
    ensure!(output.status.success(), "run {} --list-full: {}", busybox.display(), output.status);
    let list = String::from_utf8(output.stdout).context("read the list of applets")?;
    let mut applets: Vec<String> =
        list.lines().filter(|path| *path != "bin/busybox").map(str::to_owned).collect();
    applets.sort_unstable();
    applets.dedup();
    Ok(applets)
}

/// Writes the image layout into `out`: blobs first, the index last, so that a reader who finds the
/// index finds all. `out` is made when missing; an older image in it is replaced.
///
/// # Errors
/// Those of the file system.
pub fn write(program: &[u8], applets: &[String], out: &Path) -> Result<()> {
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
    let tar = layer(program, applets).context("pack layer")?;
    let diff_id = digest(&tar);
    let layer = put(&blobs, LAYER, &gzip(&tar)?)?;
    let config = put_json(&blobs, CONFIG, &config(&diff_id))?;
    let manifest = put_json(
        &blobs,
        MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
        }),
    )?;
    let mut entry = manifest;
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
    entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    replace(&out.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    replace(&out.join("index.json"), &serde_json::to_vec(&index)?)
}

fn config(diff_id: &str) -> Value {
    json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Cmd": ["sh"], "Env": [format!("PATH={PATH}")] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "busybox-image" }],
    })
}

fn layer(program: &[u8], applets: &[String]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode) in FOLDERS {
        tar.append_data(&mut header(EntryType::Directory, mode, 0), format!("{name}/"), &[][..])?;
    }
    let files = [
        ("bin/busybox", 0o755, program),
        ("etc/group", 0o644, GROUP.as_bytes()),
        ("etc/passwd", 0o644, PASSWD.as_bytes()),
        ("etc/profile", 0o644, PROFILE.as_bytes()),
    ];
    for (name, mode, data) in files {
        let size = data.len() as u64;
        tar.append_data(&mut header(EntryType::Regular, mode, size), name, data)?;
    }
    for applet in applets {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, applet, "/bin/busybox")?;
    }
    Ok(tar.into_inner()?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn put_json(blobs: &Path, media_type: &str, value: &Value) -> Result<Value> {
    put(blobs, media_type, &serde_json::to_vec(value)?)
}

/// Stores a blob and returns its descriptor. OCI image-spec, content descriptors.
fn put(blobs: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let digest = digest(bytes);
    replace(&blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension(format!("new{}", std::process::id()));
    File::create(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn image() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(b"program", &["bin/sh".to_owned(), "usr/bin/env".to_owned()], folder.path()).unwrap();
        folder
    }

    fn blob(folder: &Path, descriptor: &Value) -> Vec<u8> {
        let digest_text = descriptor["digest"].as_str().unwrap();
        let name = digest_text.strip_prefix("sha256:").unwrap();
        let bytes = fs::read(folder.join("blobs/sha256").join(name)).unwrap();
        assert_eq!(digest(&bytes), digest_text);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn every_digest_from_the_index_down_is_right() {
        let image = image();
        let index: Value =
            serde_json::from_slice(&fs::read(image.path().join("index.json")).unwrap()).unwrap();
        let manifest: Value =
            serde_json::from_slice(&blob(image.path(), &index["manifests"][0])).unwrap();
        let config: Value =
            serde_json::from_slice(&blob(image.path(), &manifest["config"])).unwrap();
        let layer = blob(image.path(), &manifest["layers"][0]);
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(layer.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar));
        assert_eq!(config["config"]["Cmd"], json!(["sh"]));
    }

    #[test]
    fn layer_has_the_program_once_and_applets_as_links_to_it() {
        let tar = layer(b"program", &["bin/sh".to_owned()]).unwrap();
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            assert!(entries.insert(name, (entry.size(), link)).is_none(), "an entry twice");
        }
        assert_eq!(entries["bin/busybox"], (7, None));
        assert_eq!(entries["bin/sh"], (0, Some("/bin/busybox".to_owned())));
        for folder in ["proc/", "sys/", "dev/", "tmp/"] {
            assert!(entries.contains_key(folder), "{folder}");
        }
    }

    #[test]
    fn two_images_of_one_program_are_identical() {
        let (one, two) = (image(), image());
        let read = |folder: &Path| fs::read(folder.join("index.json")).unwrap();
        assert_eq!(read(one.path()), read(two.path()));
    }
}
