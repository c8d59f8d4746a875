//! Files of the host as a tar stream. The tree may change meanwhile: of a file the size at its turn
//! counts.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::stat::{major, minor};
use tar::{Builder, EntryType, Header};

use super::super::failure::Failure;
use super::{broken, lost};

/// What a file is called: the last part of its path, however that was written.
pub fn name_of(path: &Path) -> Result<OsString, Failure> {
    let name = match path.file_name() {
        Some(name) => Some(name.to_owned()),
        // It ends with "..".
        None => {
            let path = path.canonicalize().map_err(|error| broken(path, &error))?;
            path.file_name().map(OsStr::to_owned)
        }
    };
    // The root of the host has no name, and becomes what is in it.
    Ok(name.unwrap_or_else(|| OsString::from(".")))
}

struct Packer<'a> {
    out: Builder<&'a mut dyn Write>,
    /// Folders whose content is still to come: where they are, and their names in the archive.
    folders: Vec<(PathBuf, PathBuf)>,
}

/// Writes a file, or a folder with all below it, as `name`; without one, the content of the folder.
/// A symbolic link is followed only where it is `source` itself, and only if asked to.
pub fn pack(
    source: &Path,
    name: Option<&OsStr>,
    follow: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut packer = Packer { out: Builder::new(out), folders: Vec::new() };
    match name {
        None => packer.folders.push((source.to_owned(), PathBuf::new())),
        Some(name) => {
            let slash = super::asserts_folder(source.as_os_str().as_encoded_bytes());
            let look = if follow || slash { fs::metadata } else { fs::symlink_metadata };
            let metadata = look(source).map_err(|error| broken(source, &error))?;
            packer.add(source, Path::new(name), &metadata)?;
        }
    }
    while let Some((folder, name)) = packer.folders.pop() {
        packer.content(&folder, &name)?;
    }
    packer.out.into_inner().map(drop).map_err(lost)
}

impl Packer<'_> {
    fn content(&mut self, folder: &Path, name: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| broken(folder, &error);
        let entries: Result<Vec<_>, _> = fs::read_dir(folder).map_err(failed)?.collect();
        let mut entries = entries.map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            match fs::symlink_metadata(&path) {
                Ok(metadata) => self.add(&path, &name.join(entry.file_name()), &metadata)?,
                // It has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(broken(&path, &error)),
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> Result<(), Failure> {
        let kind = metadata.file_type();
        if kind.is_file() {
            return self.file(path, name);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|error| broken(path, &error))?;
            let mut header = header(metadata, EntryType::Symlink, 0);
            return self.out.append_link(&mut header, name, target).map_err(lost);
        }
        if kind.is_dir() {
            self.folders.push((path.to_owned(), name.to_owned()));
            // A folder that is the archive's root is there.
            if name == Path::new(".") {
                return Ok(());
            }
        }
        let kind = match kind {
            kind if kind.is_dir() => EntryType::Directory,
            kind if kind.is_fifo() => EntryType::Fifo,
            kind if kind.is_char_device() => EntryType::Char,
            kind if kind.is_block_device() => EntryType::Block,
            // An archive has no sockets.
            _ => return Ok(()),
        };
        let mut header = header(metadata, kind, 0);
        let number = |number: u64| u32::try_from(number).unwrap_or_default();
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let (major, minor) = (number(major(metadata.rdev())), number(minor(metadata.rdev())));
            let set = header.set_device_major(major);
            set.and_then(|()| header.set_device_minor(minor)).map_err(lost)?;
        }
        self.out.append_data(&mut header, name, io::empty()).map_err(lost)
    }

    fn file(&mut self, path: &Path, name: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| broken(path, &error);
        // A pipe that has taken the file's place must not be waited for.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Failure::new(format!("{}: was replaced meanwhile", path.display())));
        }
        let size = metadata.len();
        let mut header = header(&metadata, EntryType::Regular, size);
        // As long as was said, whatever becomes of the file.
        let content = file.chain(io::repeat(0)).take(size);
        self.out.append_data(&mut header, name, content).map_err(lost)
    }
}

fn header(metadata: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
    header.set_size(size);
    header
}
