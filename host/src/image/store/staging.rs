//! Folders to work in. Each is flocked by the process that works there; a folder that nobody
//! locks is left over from a process that was killed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::digest::ImageId;
use super::super::error::{Context, ImageError};
use super::wait_for;

/// A folder that goes with everything in it when it is dropped, or when the next process looks
/// after this one was killed.
pub struct Staging {
    folder: PathBuf,
    _lock: File,
}

impl Staging {
    /// A new folder. Needs the store's lock, so that nobody clears it before it is locked.
    pub fn new_locked(root: &Path) -> Result<Self, ImageError> {
        let tmp = root.join("tmp");
        let folder = tempfile::Builder::new().prefix("work").tempdir_in(&tmp);
        let folder = folder.context("create folder", &tmp)?.keep();
        let lock = File::open(&folder)
            .and_then(|lock| lock.try_lock().map_err(std::io::Error::from).map(|()| lock))
            .context("lock folder", &folder)?;
        Ok(Staging { folder, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is cleared by the next process.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Removes what nobody works on any more. Needs the store's lock.
pub fn clear(tmp: &Path) -> Result<(), ImageError> {
    for entry in fs::read_dir(tmp).context("read folder", tmp)? {
        let path = entry.context("read folder", tmp)?.path();
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.or_else(gone_is_fine).context("clear", &path)?;
    }
    Ok(())
}

fn gone_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The right to make one image: of several loads of it at once, one works and the others find it
/// done.
pub struct MakeLock {
    path: PathBuf,
    _lock: File,
}

impl MakeLock {
    /// Waits for the right to make `id`.
    pub fn wait(root: &Path, id: &ImageId) -> Result<Self, ImageError> {
        let path = root.join("tmp").join(format!("{}.lock", id.hex()));
        loop {
            let options =
                File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let lock = options.context("open", &path)?;
            wait_for(|| lock.lock()).context("lock", &path)?;
            // The last holder took the file away: what is locked must be what others will find.
            if is_same_file(&lock, &path) {
                return Ok(MakeLock { path, _lock: lock });
            }
        }
    }
}

impl Drop for MakeLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}
