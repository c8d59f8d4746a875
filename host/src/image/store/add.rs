//! Making one image: flattened in a folder of its own, put on stable storage, then moved to its
//! place.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::archive::{Container, Found, FoundLayer};
use super::super::digest::ImageId;
use super::super::error::{Context, ImageError};
use super::super::flatten::{FlattenError, Layer, flatten};
use super::super::layer::LayerError;
use super::super::progress::Progress;
use super::record::{CONFIG, DISK, LayerInfo, MANIFEST, Record};
use super::staging::{MakeLock, Staging};
use super::{ImageStore, sync_folder};

impl ImageStore {
    /// Stores `found` if it is not stored yet, and gives its id. `name` is the archive's.
    pub(super) fn add(
        &self,
        found: &Found,
        container: &Container,
        staging: &Staging,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<ImageId, ImageError> {
        let id = ImageId::of_config(&found.config);
        let place = self.root.join(id.hex());
        if place.is_dir() {
            return Ok(id);
        }
        let _make = MakeLock::wait(&self.root, &id)?;
        if place.is_dir() {
            return Ok(id);
        }
        let folder = staging.path().join(id.hex());
        fs::create_dir(&folder).context("create folder", &folder)?;
        let size_bytes = write_disk(found, container, &id, &folder, name, progress)?;
        let layers = found.layers.iter().map(layer_info).collect();
        let record = Record::new(id.clone(), found.manifest.clone(), layers, size_bytes);
        write_file(&folder.join(CONFIG), &found.config)?;
        write_file(&folder.join(MANIFEST), &record.to_json())?;
        sync_folder(&folder)?;
        fs::rename(&folder, &place).context("store image", &place)?;
        sync_folder(&self.root)?;
        Ok(id)
    }
}

/// Flattens the image into `folder` and gives the size of the disk without its holes.
fn write_disk(
    found: &Found,
    container: &Container,
    id: &ImageId,
    folder: &Path,
    name: &str,
    progress: &dyn Progress,
) -> Result<u64, ImageError> {
    let path = folder.join(DISK);
    let create = File::options().read(true).write(true).create_new(true).mode(0o644).open(&path);
    let out = create.context("create", &path)?;
    let total = found.layers.len();
    let layers = found.layers.iter().enumerate().map(|(index, layer)| {
        progress.end();
        let short = &layer.layout.name().hex()[..12];
        let what = format!("unpack layer {}/{total} {short}", index + 1);
        progress.begin(&what, Some(layer.bytes));
        open_layer(container, layer)
    });
    let flat = flatten(layers, out, disk_uuid(id), progress);
    progress.end();
    let (disk, summary) = flat.map_err(|error| ImageError::flatten(name, error))?;
    progress.begin("sync disk", None);
    let synced = disk.sync_all();
    progress.end();
    synced.context("write", &path)?;
    Ok(summary.used_bytes)
}

fn open_layer(container: &Container, layer: &FoundLayer) -> Result<Layer, FlattenError> {
    let at_fault = |error| FlattenError::Layer {
        digest: layer.layout.name().clone(),
        source: LayerError::Blob(std::io::Error::other(error)),
    };
    let (_, blob) = container.open(&layer.path, || "layer".to_owned()).map_err(at_fault)?;
    Ok(Layer { layout: layer.layout.clone(), blob })
}

fn layer_info(layer: &FoundLayer) -> LayerInfo {
    LayerInfo {
        digest: layer.layout.blob.clone(),
        diff_id: layer.layout.diff_id.clone(),
        size_bytes: layer.bytes,
        media_type: layer.media_type.clone(),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().context("write", path)
}

/// The disk's UUID: the image's id, with the version and variant of a UUID of one's own making
/// (RFC 9562 §5.8), so that the same image gives the same disk bit for bit.
fn disk_uuid(id: &ImageId) -> [u8; 16] {
    let mut uuid = id.first_16_bytes();
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
