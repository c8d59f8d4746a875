//! The images of this machine, below one folder, for many processes at once and through crashes.
//!
//! ```text
//! lock                     flock: exclusive to change tags or take images away, shared to pin them
//! tags.json                name -> id, replaced as a whole
//! <id>/disk.erofs          the image, read-only
//! <id>/config.json         its configuration, byte for byte: its sha256 is the id
//! <id>/manifest.json       what husk knows of it beside
//! tmp/<random>/            work of a process that holds a flock on the folder
//! tmp/<id>.lock            flock: one process at a time makes this image
//! ```
//!
//! A folder `<id>` appears by rename when it is complete and on stable storage, and disappears
//! by rename; what is in it never changes.

mod add;
mod record;
mod staging;
mod tags;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use record::{Image, LayerInfo};

use super::archive;
use super::digest::{ImageId, is_lower_hex};
use super::error::{Context, ImageError};
use super::progress::Progress;
use super::reference::Reference;
use super::source::Source;
use staging::Staging;
use tags::Tags;

/// Shortest beginning of an id that names an image.
const MIN_ID_PREFIX: usize = 4;

/// The images of this machine.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
}

/// Keeps all images where they are while it lives. Dropped at the end of the process at the
/// latest.
#[derive(Debug)]
pub struct Pin {
    _lock: File,
}

/// What [`ImageStore::remove`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// The image, when it went with its last name.
    pub deleted: Option<ImageId>,
}

impl ImageStore {
    /// The store below `root`, which is created where it is missing. Clears what killed loads
    /// left.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let tmp = root.join("tmp");
        fs::create_dir_all(&tmp).context("create folder", &tmp)?;
        let store = ImageStore { root: root.to_owned() };
        store.clear_leftovers()?;
        Ok(store)
    }

    /// Loads the images of `source`: those that it asks for, at least one. An image that is
    /// stored already only gets its names. Blocks for as long as the archive takes.
    ///
    /// # Errors
    /// Nothing of an image stays behind that did not load as a whole.
    pub fn load(&self, source: &Source, progress: &dyn Progress) -> Result<Vec<Image>, ImageError> {
        let name = source.display_name();
        let at_fault = |source| ImageError::Archive { name: name.clone(), source };
        let staging = self.staging()?;
        let container = archive::open(source, staging.path(), progress).map_err(at_fault)?;
        let found = archive::find(&container, source).map_err(at_fault)?;
        let mut loaded = Vec::new();
        for image in &found {
            loaded.push(self.add(image, &container, &staging, &name, progress)?);
        }
        let names = found.iter().zip(&loaded).flat_map(|(image, id)| {
            image.names.iter().map(move |name| (name.to_string(), id.clone()))
        });
        self.tag(names)?;
        let tags = self.tags()?;
        loaded.iter().map(|id| self.image(id, &tags)).collect()
    }

    /// The image of this name (`name[:tag]`), `sha256:` id, id, or beginning of an id.
    pub fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        let tags = self.tags()?;
        let id = self.find(reference, &tags)?.id;
        self.image(&id, &tags)
    }

    /// All images, the newest first.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let tags = self.tags()?;
        let mut images = Vec::new();
        for id in self.ids()? {
            match self.image(&id, &tags) {
                Ok(image) => images.push(image),
                // Taken away since the folder was read.
                Err(ImageError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// Takes the name `reference` away, and the image with its last name; an id takes the image
    /// away if it has one name at most, or with all of them by `force`. `in_use` names a
    /// container that needs an image; such an image stays.
    pub fn remove(
        &self,
        reference: &str,
        in_use: &dyn Fn(&ImageId) -> Option<String>,
        force: bool,
    ) -> Result<Removed, ImageError> {
        let _lock = self.lock_exclusive()?;
        let mut tags = self.tags()?;
        let found = self.find(reference, &tags)?;
        let of_image = tags.of(&found.id);
        let untagged = match found.tag {
            Some(tag) => vec![tag],
            None if of_image.len() > 1 && !force => {
                let reference = reference.to_owned();
                return Err(ImageError::ManyTags { reference, tags: of_image });
            }
            None => of_image.clone(),
        };
        let is_last = of_image.len() == untagged.len();
        if is_last && let Some(container) = in_use(&found.id) {
            return Err(ImageError::InUse { reference: reference.to_owned(), container });
        }
        for tag in &untagged {
            tags.remove(tag);
        }
        tags.save(&self.root)?;
        if is_last {
            self.delete(&found.id)?;
        }
        Ok(Removed { untagged, deleted: is_last.then_some(found.id) })
    }

    /// Keeps every image where it is until the result is dropped. Whoever writes down that a
    /// container needs an image holds it between looking the image up and writing.
    pub fn pin(&self) -> Result<Pin, ImageError> {
        let lock = self.lock_file()?;
        wait_for(|| lock.lock_shared()).context("lock", &self.root)?;
        Ok(Pin { _lock: lock })
    }

    /// Gives an image another name.
    pub fn add_tag(&self, id: &ImageId, name: &Reference) -> Result<(), ImageError> {
        self.tag([(name.to_string(), id.clone())])
    }

    fn tag(&self, names: impl IntoIterator<Item = (String, ImageId)>) -> Result<(), ImageError> {
        let mut names = names.into_iter().peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        let _lock = self.lock_exclusive()?;
        let mut tags = self.tags()?;
        let mut changed = false;
        for (name, id) in names {
            if !self.root.join(id.hex()).is_dir() {
                return Err(ImageError::NotFound { reference: id.to_string() });
            }
            changed |= tags.set(name, id);
        }
        if changed { tags.save(&self.root) } else { Ok(()) }
    }

    fn find(&self, reference: &str, tags: &Tags) -> Result<FoundImage, ImageError> {
        let not_found = || ImageError::NotFound { reference: reference.to_owned() };
        if let Ok(name) = reference.parse::<Reference>()
            && let Some(id) = tags.get(&name.to_string())
        {
            return Ok(FoundImage { id: id.clone(), tag: Some(name.to_string()) });
        }
        if let Some((_, digest)) = reference.split_once('@') {
            return self.find_manifest(digest, tags)?.ok_or_else(not_found);
        }
        let prefix = reference.strip_prefix("sha256:").unwrap_or(reference);
        if prefix.len() < MIN_ID_PREFIX || !is_lower_hex(prefix) {
            return Err(not_found());
        }
        let mut matching = self.ids()?.into_iter().filter(|id| id.hex().starts_with(prefix));
        match (matching.next(), matching.next()) {
            (None, _) => Err(not_found()),
            (Some(id), None) => Ok(FoundImage { id, tag: None }),
            (Some(_), Some(_)) => Err(ImageError::Ambiguous { reference: reference.to_owned() }),
        }
    }

    /// The image with this digest of its manifest: `name@sha256:...`.
    fn find_manifest(&self, digest: &str, tags: &Tags) -> Result<Option<FoundImage>, ImageError> {
        for id in self.ids()? {
            let image = self.image(&id, tags)?;
            if image.manifest_digest.is_some_and(|manifest| manifest.to_string() == digest) {
                return Ok(Some(FoundImage { id, tag: None }));
            }
        }
        Ok(None)
    }

    fn ids(&self) -> Result<Vec<ImageId>, ImageError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root).context("read folder", &self.root)? {
            let entry = entry.context("read folder", &self.root)?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            ids.extend(id);
        }
        ids.sort();
        Ok(ids)
    }

    fn image(&self, id: &ImageId, tags: &Tags) -> Result<Image, ImageError> {
        record::read(&self.root.join(id.hex()), id, tags.of(id))
    }

    fn tags(&self) -> Result<Tags, ImageError> {
        Tags::load(&self.root)
    }

    /// Moves the image out of the way, so that it is gone at once or not at all. Needs the lock.
    fn delete(&self, id: &ImageId) -> Result<(), ImageError> {
        let folder = self.root.join(id.hex());
        let staging = Staging::new_locked(&self.root)?;
        fs::rename(&folder, staging.path().join("image")).context("remove image", &folder)?;
        sync_folder(&self.root)
    }

    fn staging(&self) -> Result<Staging, ImageError> {
        let _lock = self.lock_exclusive()?;
        Staging::new_locked(&self.root)
    }

    fn clear_leftovers(&self) -> Result<(), ImageError> {
        let tmp = self.root.join("tmp");
        let mut entries = fs::read_dir(&tmp).context("read folder", &tmp)?;
        if entries.next().is_none() {
            return Ok(());
        }
        let _lock = self.lock_exclusive()?;
        staging::clear(&tmp)
    }

    fn lock_file(&self) -> Result<File, ImageError> {
        let path = self.root.join("lock");
        let options =
            File::options().read(true).write(true).create(true).truncate(false).open(&path);
        options.context("open", &path)
    }

    fn lock_exclusive(&self) -> Result<File, ImageError> {
        let lock = self.lock_file()?;
        wait_for(|| lock.lock()).context("lock", &self.root)?;
        Ok(lock)
    }
}

struct FoundImage {
    id: ImageId,
    /// The name that it was found by.
    tag: Option<String>,
}

/// Waits for a lock, through signals.
fn wait_for(lock: impl Fn() -> std::io::Result<()>) -> std::io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Puts the entries of a folder on stable storage.
fn sync_folder(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|folder| folder.sync_all()).context("sync folder", path)
}
