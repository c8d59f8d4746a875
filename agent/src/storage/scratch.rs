//! Where the layers of an overlay are attached while it is made.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use husk_protocols::id::ContainerId;
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, umount2},
    sys::stat::{Mode, fstat},
};

use super::StorageError;
use crate::{mount::MountOptions, sys::mount::attach};

/// Made at boot; a folder for each overlay that is being made.
pub const FOLDER: &str = "/run/husk/scratch";

/// Two mount points; what is attached there is detached again, and they are removed, on drop.
pub struct Scratch {
    folder: PathBuf,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StorageError {
    let path = path.display().to_string();
    move |error| StorageError::Folder {
        operation,
        path,
        source: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
    }
}

impl Scratch {
    pub fn new(id: &ContainerId) -> Result<Self, StorageError> {
        let folder = Path::new(FOLDER).join(id.as_str());
        fs::create_dir(&folder).map_err(failed("make", &folder))?;
        let scratch = Self { folder };
        for place in [scratch.lower(), scratch.upper()] {
            fs::create_dir(&place).map_err(failed("make", &place))?;
        }
        Ok(scratch)
    }

    fn lower(&self) -> PathBuf {
        self.folder.join("lower")
    }

    fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    pub fn attach_lower(&self, mount: &OwnedFd) -> Result<(), StorageError> {
        attach_at(&self.lower(), mount)
    }

    pub fn attach_upper(&self, mount: &OwnedFd) -> Result<(), StorageError> {
        attach_at(&self.upper(), mount)
    }

    /// The folders that the overlay writes to. A new upper folder looks like the image's root,
    /// since it is what the container's root will look like.
    pub fn make_layers(&self, lower: &OwnedFd) -> Result<(), StorageError> {
        let work = self.upper().join("work");
        make_if_missing(&work)?;
        let upper = self.upper().join("upper");
        if !make_if_missing(&upper)? {
            return Ok(());
        }
        let image = fstat(lower).map_err(|errno| failed("stat", &self.lower())(errno.into()))?;
        let mode = fs::Permissions::from_mode(image.st_mode & 0o7777);
        std::os::unix::fs::chown(&upper, Some(image.st_uid), Some(image.st_gid))
            .and_then(|()| fs::set_permissions(&upper, mode))
            .map_err(failed("set the mode of", &upper))
    }

    pub fn overlay_options(&self) -> MountOptions {
        let text = |path: PathBuf| Some(path.to_string_lossy().into_owned());
        let data = vec![
            ("lowerdir".to_owned(), text(self.lower())),
            ("upperdir".to_owned(), text(self.upper().join("upper"))),
            ("workdir".to_owned(), text(self.upper().join("work"))),
        ];
        MountOptions { data, ..MountOptions::default() }
    }
}

/// Whether it was missing.
fn make_if_missing(folder: &Path) -> Result<bool, StorageError> {
    match fs::create_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let kept = fs::symlink_metadata(folder).map_err(failed("stat", folder))?;
            if kept.is_dir() && kept.nlink() > 0 {
                return Ok(false);
            }
            Err(failed("make", folder)(Errno::ENOTDIR.into()))
        }
        Err(error) => Err(failed("make", folder)(error)),
    }
}

fn attach_at(place: &Path, mount: &OwnedFd) -> Result<(), StorageError> {
    open(place, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|onto| attach(mount.as_fd(), onto.as_fd()))
        .map_err(|errno| failed("attach to", place)(errno.into()))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for place in [self.lower(), self.upper()] {
            // Nothing may be attached yet. A busy one stays mounted until its last user is gone.
            let _ = umount2(&place, MntFlags::MNT_DETACH);
            let _ = fs::remove_dir(&place);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}
