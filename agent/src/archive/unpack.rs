//! An archive into a folder. Below the folder no symbolic link is followed, neither one that was
//! there nor one that came with the archive; so an entry lands where its name says or nowhere.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::{
        stat::{Mode, SFlag, UtimensatFlags, fstatat, makedev, mkdirat, mknodat, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};
use tar::EntryType;

use super::{
    ArchiveError, Copied, MAX_DEPTH, Result, again,
    blocks::{Head, Reader},
};
use crate::{mount::Root, sys};

/// Folders whose time is set once all is in them. Further ones have that of their extraction.
const MAX_FOLDER_TIMES: usize = 4096;
const FOLDER: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Whose the extracted files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As the archive says.
    Kept,
    /// All of these.
    Of {
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

struct Unpacker {
    folder: OwnedFd,
    owner: Owner,
    copied: Copied,
    /// Paths of folders, and the time they are to have.
    times: HashMap<PathBuf, i64>,
}

/// Extracts what comes from `stream` below a folder that is there, until the archive's end. Blocks
/// as the stream does.
///
/// # Errors
/// [`ArchiveError`]; what was extracted before the failure stays, and of a file that was not whole
/// nothing.
pub fn unpack<R: Read>(
    root: BorrowedFd<'_>,
    path: &Path,
    stream: R,
    owner: Owner,
) -> Result<Copied> {
    if !path.is_absolute() {
        return Err(ArchiveError::invalid(path, "is no absolute path"));
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let folder = Root::new(root).open(path, flags).map_err(|errno| match errno {
        Errno::ENOTDIR => ArchiveError::invalid(path, "is no folder"),
        errno => ArchiveError::call("find the folder", path)(errno),
    })?;
    let mut unpacker = Unpacker { folder, owner, copied: Copied::default(), times: HashMap::new() };
    let mut reader = Reader::new(stream);
    while let Some(head) = reader.head()? {
        unpacker.entry(&mut reader, &head)?;
        reader.entries += 1;
        unpacker.copied.entries += 1;
    }
    unpacker.set_folder_times();
    Ok(unpacker.copied)
}

/// The parts of an entry's name. A slash at its start says nothing, as with other programs.
fn parts(path: &Path) -> Result<Vec<&OsStr>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(ArchiveError::invalid(path, "leads out of the folder")),
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(ArchiveError::invalid(path, "is deeper than 100 folders"));
    }
    Ok(parts)
}

impl Unpacker {
    fn entry<R: Read>(&mut self, reader: &mut Reader<R>, head: &Head) -> Result<()> {
        let mut parts = parts(&head.path)?;
        let Some(name) = parts.pop() else {
            // The folder itself, which is there and stays as it is.
            return reader.content(head.size, "a folder", |_| Ok(()));
        };
        let parent = self.parent(&head.path, &parts)?;
        let parent = parent.as_fd();
        match head.kind {
            EntryType::Regular | EntryType::Continuous => {
                self.make_room(parent, name, head)?;
                self.regular(reader, parent, name, head)
            }
            EntryType::Directory => self.directory(parent, name, head),
            EntryType::Symlink | EntryType::Link => {
                self.make_room(parent, name, head)?;
                self.link(parent, name, head)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.make_room(parent, name, head)?;
                self.node(parent, name, head)
            }
            kind => {
                let kind = char::from(kind.as_byte());
                Err(ArchiveError::Unsupported { path: head.path.clone(), kind })
            }
        }
    }

    fn owner(&self, head: &Head) -> (Option<Uid>, Option<Gid>) {
        let (uid, gid) = match self.owner {
            Owner::Kept => (head.uid, head.gid),
            Owner::Of { uid, gid } => (uid, gid),
        };
        (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    }

    /// Goes down from the folder, making what is missing.
    fn parent(&self, path: &Path, parts: &[&OsStr]) -> Result<OwnedFd> {
        let failed = |errno| match errno {
            Errno::ENOTDIR | Errno::ELOOP => {
                ArchiveError::invalid(path, "a part of its path is no folder")
            }
            errno => ArchiveError::call("find the folder of", path)(errno),
        };
        let mut folder = self
            .folder
            .try_clone()
            .map_err(|_| ArchiveError::call("find the folder of", path)(Errno::EMFILE))?;
        for part in parts {
            folder = match openat(&folder, *part, FOLDER, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&folder, *part, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(errno) => return Err(failed(errno)),
                    }
                    if let Owner::Of { uid, gid } = self.owner {
                        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                        fchownat(&folder, *part, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                            .map_err(failed)?;
                    }
                    openat(&folder, *part, FOLDER, Mode::empty())
                }
                result => result,
            }
            .map_err(failed)?;
        }
        Ok(folder)
    }

    /// Removes what is in the way, but a folder.
    fn make_room(&self, parent: BorrowedFd<'_>, name: &OsStr, head: &Head) -> Result<()> {
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR) => {
                Err(ArchiveError::invalid(&head.path, "is no folder, and a folder is in its place"))
            }
            Err(errno) => Err(ArchiveError::call("replace", &head.path)(errno)),
        }
    }

    fn regular<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        head: &Head,
    ) -> Result<()> {
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(parent, name, flags, Mode::from_bits_truncate(0o600))
            .map_err(ArchiveError::call("make", &head.path))?;
        let mut file = File::from(file);
        let place = head.path.display().to_string();
        let written = reader.content(head.size, &place, |bytes| {
            file.write_all(bytes).map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                ArchiveError::call("write", &head.path)(errno)
            })
        });
        if let Err(error) = written {
            // A part of a file is worse than none. What came first is what is told.
            let _ = unlinkat(parent, name, UnlinkatFlags::NoRemoveDir);
            return Err(error);
        }
        self.copied.bytes += head.size;
        self.dress(file.as_fd(), head)?;
        set_time(parent, name, head.mtime_s).map_err(ArchiveError::call("date", &head.path))
    }

    /// Owner, then mode, since a change of owner takes privileges away, then attributes, which it
    /// takes away too.
    fn dress(&self, file: BorrowedFd<'_>, head: &Head) -> Result<()> {
        let (uid, gid) = self.owner(head);
        fchownat(file, c"", uid, gid, AtFlags::AT_EMPTY_PATH)
            .map_err(ArchiveError::call("change the owner of", &head.path))?;
        let permissions = fs::Permissions::from_mode(head.mode & 0o7777);
        // A descriptor that only names a file cannot be given to fchmod(2).
        fs::set_permissions(again(file), permissions).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            ArchiveError::call("change the mode of", &head.path)(errno)
        })?;
        for (name, value) in &head.attributes {
            sys::attribute::set(file, name, value)
                .map_err(ArchiveError::call("set attributes of", &head.path))?;
        }
        Ok(())
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &OsStr, head: &Head) -> Result<()> {
        match mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(ArchiveError::call("make the folder", &head.path)(errno)),
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = openat(parent, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOTDIR | Errno::ELOOP => {
                ArchiveError::invalid(&head.path, "is a folder, and something else is in its place")
            }
            errno => ArchiveError::call("open the folder", &head.path)(errno),
        })?;
        self.dress(folder.as_fd(), head)?;
        if self.times.len() < MAX_FOLDER_TIMES {
            self.times.insert(head.path.clone(), head.mtime_s);
        }
        Ok(())
    }

    fn link(&self, parent: BorrowedFd<'_>, name: &OsStr, head: &Head) -> Result<()> {
        if head.target.as_os_str().is_empty() {
            return Err(ArchiveError::invalid(&head.path, "is a link to nothing"));
        }
        let failed = || ArchiveError::call("make the link", &head.path);
        if head.kind == EntryType::Link {
            let mut target = parts(&head.target)?;
            let Some(old) = target.pop() else {
                return Err(ArchiveError::invalid(&head.path, "is a link to the folder itself"));
            };
            let folder = self.parent(&head.path, &target)?;
            // Without AT_SYMLINK_FOLLOW: a symbolic link gets a second name itself.
            return linkat(&folder, old, parent, name, AtFlags::empty()).map_err(failed());
        }
        symlinkat(head.target.as_path(), parent, name).map_err(failed())?;
        let (uid, gid) = self.owner(head);
        fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
            .and_then(|()| set_time(parent, name, head.mtime_s))
            .map_err(failed())
    }

    fn node(&self, parent: BorrowedFd<'_>, name: &OsStr, head: &Head) -> Result<()> {
        let (kind, (major, minor)) = match head.kind {
            EntryType::Char => (SFlag::S_IFCHR, head.device),
            EntryType::Block => (SFlag::S_IFBLK, head.device),
            _ => (SFlag::S_IFIFO, (0, 0)),
        };
        let device = makedev(major.into(), minor.into());
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let node = mknodat(parent, name, kind, Mode::from_bits_truncate(0o600), device)
            .and_then(|()| openat(parent, name, flags, Mode::empty()))
            .map_err(ArchiveError::call("make the node", &head.path))?;
        // It may have been replaced: only what was made is dressed.
        let stat = super::stat_of(&node, &head.path)?;
        if stat.st_mode & libc::S_IFMT != kind.bits() || stat.st_rdev != device {
            return Err(ArchiveError::invalid(&head.path, "was replaced meanwhile"));
        }
        self.dress(node.as_fd(), head)?;
        set_time(parent, name, head.mtime_s).map_err(ArchiveError::call("date", &head.path))
    }

    /// Last, since each entry in a folder changes its time. One that has gone needs none.
    fn set_folder_times(&self) {
        for (path, &time) in &self.times {
            let Ok(mut parts) = parts(path) else { continue };
            let Some(name) = parts.pop() else { continue };
            if let Ok(parent) = self.parent(path, &parts)
                && fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
            {
                let _ = set_time(parent.as_fd(), name, time);
            }
        }
    }
}

fn set_time(parent: BorrowedFd<'_>, name: &OsStr, mtime_s: i64) -> sys::Result<()> {
    let mtime = TimeSpec::new(mtime_s, 0);
    utimensat(parent, name, &TimeSpec::UTIME_NOW, &mtime, UtimensatFlags::NoFollowSymlink)
}
