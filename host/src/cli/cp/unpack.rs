//! An archive from a guest into a folder of the host. Nothing in it is trusted: names lie below the
//! one that was asked for, no symbolic link below the folder is followed, neither one that was
//! there nor one that came with the archive, and nothing but files, folders, links and pipes is
//! made.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat,
};

use super::super::failure::Failure;
use super::BUFFER;
use crate::image::tar::{Entry, EntryType, TarError, TarInput, TarReader};

/// Folders that get their mode and time once all is in them; further ones at once, and remain
/// writable for their owner.
const MAX_FOLDERS: usize = 4096;
/// Deepest folder.
const MAX_DEPTH: usize = 256;
const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Where an archive's entries go.
#[derive(Debug)]
pub struct Placing {
    /// The first part of every name in the archive; `.` for the content of a folder.
    pub first: Vec<u8>,
    /// What takes its place; nothing puts the content into the folder.
    pub put_at: Option<OsString>,
    /// One file was asked for, and no folder.
    pub single: bool,
    /// Owners, setuid and setgid as in the archive, where the user is root.
    pub archive: bool,
}

struct Unpacker {
    folder: OwnedFd,
    placing: Placing,
    keep_owner: bool,
    folders: Vec<(Vec<OsString>, Entry)>,
    entries: u64,
}

impl<R: Read + ?Sized> TarInput for BufReader<&mut R> {}

fn failed(operation: &str, entry: &Entry) -> impl FnOnce(Errno) -> Failure {
    let message = format!("{operation} \"{}\"", entry.display_name());
    move |errno| Failure::new(format!("{message}: {}", errno.desc()))
}

fn refused(entry: &Entry, reason: &str) -> Failure {
    let name = entry.display_name();
    Failure::new(format!("the container sent \"{name}\", which {reason}: not extracted"))
}

impl From<TarError> for Failure {
    fn from(error: TarError) -> Self {
        Failure::new(format!("the container's archive: {}", crate::engine::error::chain(&error)))
    }
}

/// Extracts an archive below `folder`. What was extracted before an error stays, and of a file that
/// was not whole nothing.
pub fn unpack(stream: &mut dyn Read, folder: &Path, placing: Placing) -> Result<(), Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = nix::fcntl::open(folder, flags, Mode::empty())
        .map_err(|errno| Failure::new(format!("{}: {}", folder.display(), errno.desc())))?;
    let keep_owner = placing.archive && Uid::effective().is_root();
    let mut unpacker = Unpacker { folder, placing, keep_owner, folders: Vec::new(), entries: 0 };
    let mut reader = TarReader::new(BufReader::with_capacity(BUFFER, stream));
    while let Some(entry) = reader.next_entry()? {
        unpacker.entry(&mut reader, entry)?;
        unpacker.entries += 1;
    }
    if unpacker.entries == 0 {
        return Err(Failure::new("the container sent nothing: the archive was cut short"));
    }
    unpacker.finish_folders()
}

impl Unpacker {
    /// The parts of a name on the host; none for the folder itself.
    fn parts(&self, entry: &Entry, name: &[u8]) -> Result<Vec<OsString>, Failure> {
        if name.starts_with(b"/") || name.contains(&0) {
            return Err(refused(entry, "leads out of the folder"));
        }
        let mut parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        if parts.next() != Some(&self.placing.first) {
            return Err(refused(entry, "was not asked for"));
        }
        let mut all: Vec<OsString> = self.placing.put_at.iter().cloned().collect();
        for part in parts.filter(|part| *part != b".") {
            if part == b".." {
                return Err(refused(entry, "leads out of the folder"));
            }
            all.push(OsStr::from_bytes(part).to_owned());
        }
        if all.len() > MAX_DEPTH {
            return Err(refused(entry, "is deeper than 256 folders"));
        }
        Ok(all)
    }

    fn entry<R: TarInput>(
        &mut self,
        reader: &mut TarReader<R>,
        entry: Entry,
    ) -> Result<(), Failure> {
        let mut parts = self.parts(&entry, &entry.path)?;
        let is_folder = entry.kind == EntryType::Directory;
        if self.placing.single && (is_folder || self.entries > 0) {
            return Err(refused(&entry, "was not asked for"));
        }
        let Some(name) = parts.pop() else {
            let stays = if is_folder { Ok(()) } else { Err(refused(&entry, "is no folder")) };
            return stays;
        };
        let parent = self.parent(&entry, &parts)?;
        let parent = parent.as_fd();
        match entry.kind {
            EntryType::Directory => {
                self.directory(parent, &name, &entry)?;
                parts.push(name);
                self.later(parts, entry)
            }
            EntryType::File => self.file(reader, parent, &name, &entry),
            EntryType::Symlink | EntryType::HardLink => self.link(parent, &name, &entry),
            EntryType::Fifo => {
                make_room(parent, &name, &entry)?;
                mkfifoat(parent, name.as_os_str(), Mode::from_bits_truncate(entry.mode.into()))
                    .map_err(failed("make", &entry))
            }
            EntryType::CharDevice | EntryType::BlockDevice => Err(refused(&entry, "is a device")),
            EntryType::Other(_) => Err(refused(&entry, "is of an unknown kind")),
        }
    }

    /// Goes down from the folder, making what is missing.
    fn parent(&self, entry: &Entry, parts: &[OsString]) -> Result<OwnedFd, Failure> {
        let wrong = |errno| match errno {
            Errno::ENOTDIR | Errno::ELOOP => refused(entry, "has a part that is no folder"),
            errno => failed("find the folder of", entry)(errno),
        };
        let folder = self.folder.try_clone();
        let mut folder = folder.map_err(|_| failed("find the folder of", entry)(Errno::EMFILE))?;
        for part in parts {
            let part = part.as_os_str();
            folder = match openat(&folder, part, FOLDER, Mode::empty()) {
                Err(Errno::ENOENT) => mkdirat(&folder, part, Mode::from_bits_truncate(0o755))
                    .and_then(|()| openat(&folder, part, FOLDER, Mode::empty())),
                result => result,
            }
            .map_err(wrong)?;
        }
        Ok(folder)
    }

    fn mode(&self, entry: &Entry) -> Mode {
        let mask = if self.keep_owner { 0o7777 } else { 0o1777 };
        Mode::from_bits_truncate((entry.mode & mask).into())
    }

    /// Owner, then mode, since a change of owner takes privileges away.
    fn dress(&self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Failure> {
        if self.keep_owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchown(file, Some(uid), Some(gid)).map_err(failed("change the owner of", entry))?;
        }
        fchmod(file, self.mode(entry)).map_err(failed("change the mode of", entry))?;
        let time = TimeSpec::new(entry.mtime.secs, 0);
        let now = TimeSpec::UTIME_NOW;
        nix::sys::stat::futimens(file, &now, &time).map_err(failed("date", entry))
    }

    fn directory(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
    ) -> Result<(), Failure> {
        match mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => return Ok(()),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed("make the folder", entry)(errno)),
        }
        match openat(parent, name, FOLDER, Mode::empty()) {
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                let name = entry.display_name();
                Err(Failure::new(format!(
                    "cannot overwrite non-directory \"{name}\" with directory"
                )))
            }
            // One that its owner may not read is what the user made of it.
            _ => Ok(()),
        }
    }

    /// A folder's mode may forbid to write into it, and its time changes with each entry.
    fn later(&mut self, parts: Vec<OsString>, entry: Entry) -> Result<(), Failure> {
        if self.folders.len() < MAX_FOLDERS {
            self.folders.push((parts, entry));
            return Ok(());
        }
        let folder = self.parent(&entry, &parts)?;
        let mode = self.mode(&entry) | Mode::S_IRWXU;
        fchmod(&folder, mode).map_err(failed("change the mode of", &entry))
    }

    /// Innermost first: the mode of an outer one may close the way.
    fn finish_folders(&mut self) -> Result<(), Failure> {
        let mut folders = std::mem::take(&mut self.folders);
        folders.sort_by_key(|(parts, _)| std::cmp::Reverse(parts.len()));
        for (parts, entry) in folders {
            self.dress(self.parent(&entry, &parts)?.as_fd(), &entry)?;
        }
        Ok(())
    }

    fn file<R: TarInput>(
        &self,
        reader: &mut TarReader<R>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
    ) -> Result<(), Failure> {
        if entry.sparse.is_some() {
            return Err(refused(entry, "is sparse"));
        }
        make_room(parent, name, entry)?;
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(parent, name, flags, Mode::from_bits_truncate(0o600))
            .map_err(failed("make", entry))?;
        let mut file = File::from(file);
        let written = reader.read_data(entry.size, |bytes| {
            let written = file.write_all(bytes);
            written.map_err(|error| {
                Failure::new(format!("write \"{}\": {error}", entry.display_name()))
            })
        });
        written.and_then(|()| self.dress(file.as_fd(), entry)).inspect_err(|_| {
            // A part of a file is worse than none. What came first is what is told.
            let _ = unlinkat(parent, name, UnlinkatFlags::NoRemoveDir);
        })
    }

    fn link(&self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Failure> {
        make_room(parent, name, entry)?;
        if entry.kind == EntryType::HardLink {
            let mut parts = self.parts(entry, &entry.link)?;
            let Some(old) = parts.pop() else { return Err(refused(entry, "links to a folder")) };
            let folder = self.parent(entry, &parts)?;
            // Without AT_SYMLINK_FOLLOW: a symbolic link gets a second name itself.
            return linkat(&folder, old.as_os_str(), parent, name, AtFlags::empty())
                .map_err(failed("make the link", entry));
        }
        symlinkat(OsStr::from_bytes(&entry.link), parent, name)
            .map_err(failed("make the link", entry))?;
        if self.keep_owner {
            let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
            fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(failed("change the owner of", entry))?;
        }
        let (now, time) = (TimeSpec::UTIME_NOW, TimeSpec::new(entry.mtime.secs, 0));
        utimensat(parent, name, &now, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(failed("date", entry))
    }
}

/// Removes what is in the way, but a folder.
fn make_room(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Failure> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => {
            let name = entry.display_name();
            Err(Failure::new(format!("cannot overwrite directory with non-directory \"{name}\"")))
        }
        Err(errno) => Err(failed("replace", entry)(errno)),
    }
}

#[cfg(test)]
mod tests;
