//! Masked and read-only paths: config-linux.md. What is not there needs no hiding.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::{Mode, SFlag, fstat},
};

use super::StageError;
use crate::{
    mount::{self, MountError, MountOptions, Root, step},
    sys::mount::{Depth, attach, clone_tree},
};

fn find(root: &Root<'_>, path: &Path) -> Result<Option<OwnedFd>, StageError> {
    match root.find(path) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(StageError::path("hide", path)(errno)),
    }
}

/// Makes files and folders unwritable, with all mounts below them.
///
/// # Errors
/// [`StageError`].
pub fn make_read_only(root: &Root<'_>, paths: &[PathBuf]) -> Result<(), StageError> {
    for path in paths {
        let Some(place) = find(root, path)? else { continue };
        let cover = clone_tree(place.as_fd(), Depth::Tree).map_err(step("bind"));
        cover
            .and_then(|cover| {
                mount::make_read_only(&cover, Depth::Tree)?;
                attach(cover.as_fd(), place.as_fd()).map_err(step("attach"))
            })
            .map_err(StageError::mount(path.clone()))?;
    }
    Ok(())
}

/// Makes files read as empty, and folders look empty.
///
/// # Errors
/// [`StageError`].
pub fn mask(root: &Root<'_>, paths: &[PathBuf]) -> Result<(), StageError> {
    let mut covers = Covers::default();
    for path in paths {
        let Some(place) = find(root, path)? else { continue };
        covers.hide(&place).map_err(StageError::mount(path.clone()))?;
    }
    Ok(())
}

/// What lies over masked paths: the first place that each was put over. It is cloned from there,
/// since a mount can be cloned only once it is attached.
#[derive(Default)]
struct Covers {
    file: Option<OwnedFd>,
    folder: Option<OwnedFd>,
}

impl Covers {
    fn hide(&mut self, place: &OwnedFd) -> Result<(), MountError> {
        let mode = fstat(place).map_err(step("stat"))?.st_mode;
        if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            self.hide_folder(place)
        } else {
            self.hide_file(place)
        }
    }

    fn hide_file(&mut self, place: &OwnedFd) -> Result<(), MountError> {
        let cover = match &self.file {
            Some(first) => clone_tree(first.as_fd(), Depth::One).map_err(step("bind /dev/null"))?,
            None => guest_null()?,
        };
        attach(cover.as_fd(), place.as_fd()).map_err(step("attach"))?;
        self.file.get_or_insert(cover);
        Ok(())
    }

    fn hide_folder(&mut self, place: &OwnedFd) -> Result<(), MountError> {
        let cover = match &self.folder {
            Some(first) => clone_tree(first.as_fd(), Depth::One).map_err(step("bind"))?,
            None => {
                let options = ["ro", "nosuid", "nodev", "noexec", "mode=755", "nr_inodes=1"];
                let options = MountOptions::parse(options).unwrap_or_default();
                mount::make("tmpfs", None, &options)?
            }
        };
        attach(cover.as_fd(), place.as_fd()).map_err(step("attach"))?;
        self.folder.get_or_insert(cover);
        Ok(())
    }
}

/// The guest's own /dev/null: the container's could be anything. It is every container's, and root
/// in one of them must not change its mode or owner; a device on a read-only mount still takes all
/// that is written to it.
fn guest_null() -> Result<OwnedFd, MountError> {
    let null = open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(step("open the guest's /dev/null"))?;
    let cover = clone_tree(null.as_fd(), Depth::One).map_err(step("bind /dev/null"))?;
    mount::make_read_only(&cover, Depth::One)?;
    Ok(cover)
}
