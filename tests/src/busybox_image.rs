//! A small container image out of one static program: busybox, its applets as links, and the few
//! files that a shell and user names need. An OCI image layout, equal bit for bit for equal input.
//!
//! Not a builder of images: no second layer, no instructions.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::image::{Image, Layer, Packing};

/// The tag of the image in its layout. OCI image-spec, `org.opencontainers.image.ref.name`.
const TAG: &str = "latest";
/// Where a shell finds the applets.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

/// The image's only layer.
#[must_use]
pub fn layer(program: &[u8], applets: &[String]) -> Layer {
    let folders = FOLDERS.iter().fold(Layer::new(), |layer, &(name, mode)| layer.dir(name, mode));
    let files = folders
        .file("bin/busybox", 0o755, program)
        .file("etc/group", 0o644, GROUP)
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/profile", 0o644, PROFILE);
    applets.iter().fold(files, |layer, applet| layer.symlink(applet, "/bin/busybox"))
}

/// The image.
#[must_use]
pub fn image(program: &[u8], applets: &[String], packing: Packing) -> Image {
    Image::new()
        .layer(&layer(program, applets), packing)
        .set("Env", json!([format!("PATH={PATH}")]))
}

/// Writes the image layout into `out`, which is made when missing; an older image in it is
/// replaced.
///
/// # Errors
/// Those of the file system.
pub fn write(program: &[u8], applets: &[String], out: &Path) -> Result<()> {
    let image = image(program, applets, Packing::Gzip);
    image.write_layout(out, TAG).with_context(|| format!("write {}", out.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Read;

    use serde_json::Value;

    use super::*;
    use crate::image::digest;

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
        let tar = layer(b"program", &["bin/sh".to_owned()]).to_tar();
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
