//! The file of names. Read without a lock: it is replaced as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::digest::ImageId;
use super::super::error::{Context, ImageError};
use super::sync_folder;

const VERSION: u32 = 1;
const FILE: &str = "tags.json";

/// All names of all images.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tags {
    version: u32,
    tags: BTreeMap<String, ImageId>,
}

impl Tags {
    /// The names as they are now.
    pub fn load(root: &Path) -> Result<Self, ImageError> {
        let path = root.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Tags { version: VERSION, tags: BTreeMap::new() });
            }
            result => result.context("read", &path)?,
        };
        let tags: Tags = serde_json::from_slice(&bytes)
            .map_err(|source| ImageError::Damaged { path: path.clone(), source })?;
        if tags.version == VERSION {
            Ok(tags)
        } else {
            Err(ImageError::Version { path, version: tags.version })
        }
    }

    /// Replaces the file. Needs the store's lock.
    pub fn save(&self, root: &Path) -> Result<(), ImageError> {
        let path = root.join(FILE);
        let bytes = serde_json::to_vec_pretty(self).expect("a map of strings is JSON");
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new().prefix("tags").tempfile_in(root.join("tmp"))?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().context("write", &path)?;
        sync_folder(root)
    }

    /// The image of this name.
    pub fn get(&self, name: &str) -> Option<&ImageId> {
        self.tags.get(name)
    }

    /// The names of an image, sorted.
    pub fn of(&self, id: &ImageId) -> Vec<String> {
        self.tags.iter().filter(|(_, of)| *of == id).map(|(name, _)| name.clone()).collect()
    }

    /// Gives a name to an image; another image loses it. False when it has it already.
    pub fn set(&mut self, name: String, id: ImageId) -> bool {
        let before = self.tags.insert(name, id.clone());
        before != Some(id)
    }

    /// Takes a name away.
    pub fn remove(&mut self, name: &str) {
        self.tags.remove(name);
    }
}
