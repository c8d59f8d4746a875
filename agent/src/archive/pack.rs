//! Files into an archive. The tree may change meanwhile: what is gone when its turn comes is left
//! out, a file that has become shorter is filled up with zeros, and of one that grows the size at
//! its turn counts.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, readlinkat},
    sys::{
        stat::{FileStat, Mode, major, minor},
        statfs::{FsType, PROC_SUPER_MAGIC, fstatfs},
    },
};
use tar::{EntryType, Header};

use super::{
    ArchiveError, Copied, MAX_DEPTH, MAX_NAME_LEN, Result, Subject, again, blocks::Writer, stat_of,
};
use crate::sys;

/// Names that are kept for hard links, in bytes. Links to a file beyond it become files of their
/// own.
const MAX_LINK_BYTES: usize = 1 << 20;
/// Files up to this size are read before they are announced: those of sysfs say 4096 and have less.
const SMALL: usize = 64 << 10;
/// linux/magic.h. nix has no name for it.
const SYSFS_MAGIC: FsType = FsType(0x6265_6572);
/// What makes a program privileged without a mode bit.
const CAPABILITY: &str = "security.capability";

struct Level {
    folder: OwnedFd,
    entries: fs::ReadDir,
    /// Of the path.
    name_len: usize,
    /// Whether the files are the kernel's and not files.
    device: u64,
}

struct Packer<W> {
    out: Writer<W>,
    copied: Copied,
    /// The path of the entry at hand, as in the archive.
    name: Vec<u8>,
    levels: Vec<Level>,
    /// Device and inode of files that have several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    link_bytes: usize,
}

/// Writes a file, or a folder with all below it, to `stream`. Blocks as that does.
///
/// # Errors
/// [`ArchiveError`]; what was written so far is no whole archive then.
pub fn pack<W: Write>(root: BorrowedFd<'_>, path: &Path, stream: W) -> Result<Copied> {
    let subject = Subject::find(root, path)?;
    let mut packer = Packer {
        out: Writer::new(stream),
        copied: Copied::default(),
        name: subject.name.as_bytes().to_owned(),
        levels: Vec::new(),
        links: HashMap::new(),
        link_bytes: 0,
    };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&subject.folder, subject.name.as_os_str(), flags, Mode::empty())
        .map_err(ArchiveError::call("find", path))?;
    packer.add(file, None)?;
    packer.walk()?;
    let copied = packer.copied;
    packer.out.finish()?;
    Ok(copied)
}

impl<W: Write> Packer<W> {
    /// Depth first, without recursion.
    fn walk(&mut self) -> Result<()> {
        while let Some(level) = self.levels.last_mut() {
            self.name.truncate(level.name_len);
            let Some(entry) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let path = || PathBuf::from(OsStr::from_bytes(&self.name));
            let entry = entry.map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                ArchiveError::call("read the folder", path())(errno)
            })?;
            let name = entry.file_name();
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = match openat(&level.folder, name.as_os_str(), flags, Mode::empty()) {
                Ok(file) => file,
                // It has gone meanwhile.
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(ArchiveError::call("find", path().join(name))(errno)),
            };
            let device = level.device;
            self.name.push(b'/');
            self.name.extend_from_slice(name.as_bytes());
            self.add(file, Some(device))?;
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&self.name))
    }

    /// Adds what an `O_PATH` descriptor refers to, and goes into folders.
    fn add(&mut self, file: OwnedFd, outer_device: Option<u64>) -> Result<()> {
        if self.name.len() >= MAX_NAME_LEN {
            return Err(ArchiveError::invalid(self.path(), "the path is too long"));
        }
        let stat = stat_of(&file, &self.path())?;
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => return self.regular(&file, &stat),
            libc::S_IFDIR => return self.folder(file, &stat, outer_device),
            libc::S_IFLNK => EntryType::Symlink,
            libc::S_IFCHR => EntryType::Char,
            libc::S_IFBLK => EntryType::Block,
            libc::S_IFIFO => EntryType::Fifo,
            // An archive has no sockets.
            _ => return Ok(()),
        };
        let target = match kind {
            EntryType::Symlink => match readlinkat(&file, c"") {
                Ok(target) => target.as_bytes().to_owned(),
                Err(errno) => return Err(ArchiveError::call("read the link", self.path())(errno)),
            },
            _ => Vec::new(),
        };
        self.head(header(&stat, kind, 0), &target, &[])
    }

    fn head(&mut self, head: Header, target: &[u8], more: &[(&str, Vec<u8>)]) -> Result<()> {
        self.copied.entries += 1;
        self.out.head(head, &self.name, target, more)
    }

    fn folder(&mut self, file: OwnedFd, stat: &FileStat, outer: Option<u64>) -> Result<()> {
        let path = self.path();
        self.name.push(b'/');
        self.head(header(stat, EntryType::Directory, 0), &[], &[])?;
        self.name.pop();
        // Files of the kernel are copied when they are asked for, and not when they lie on the way.
        let crossed = outer.is_some_and(|outer| outer != stat.st_dev);
        if crossed && is_kernels(file.as_fd()) {
            return Ok(());
        }
        if self.levels.len() >= MAX_DEPTH {
            return Err(ArchiveError::invalid(path, "is deeper than 100 folders"));
        }
        let entries = match fs::read_dir(again(&file)) {
            Ok(entries) => entries,
            Err(error) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                return Err(ArchiveError::call("read the folder", path)(errno));
            }
        };
        let name_len = self.name.len();
        self.levels.push(Level { folder: file, entries, name_len, device: stat.st_dev });
        Ok(())
    }

    /// A second name of a file that is in the archive becomes a link to the first.
    fn is_link(&mut self, stat: &FileStat) -> Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&key) {
            let first = first.clone();
            self.head(header(stat, EntryType::Link, 0), &first, &[])?;
            return Ok(true);
        }
        if self.link_bytes + self.name.len() <= MAX_LINK_BYTES {
            self.link_bytes += self.name.len();
            self.links.insert(key, self.name.clone());
        }
        Ok(false)
    }

    fn regular(&mut self, file: &OwnedFd, stat: &FileStat) -> Result<()> {
        if self.is_link(stat)? {
            return Ok(());
        }
        // Not through its name: that may be a device's by now.
        let mut content =
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open(again(file)).map_err(
                |error| {
                    let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                    ArchiveError::call("open", self.path())(errno)
                },
            )?;
        let attribute = sys::attribute::get(content.as_fd(), CAPABILITY);
        let more: Vec<_> = attribute.into_iter().map(|value| (CAPABILITY, value)).collect();
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        if size > SMALL as u64 {
            self.head(header(stat, EntryType::Regular, size), &[], &more)?;
            self.stream(&mut content, size)?;
        } else {
            let mut small = Vec::new();
            // Where a file says that it is empty, it may be endless.
            let read = content.take(size).read_to_end(&mut small);
            read.map_err(|error| self.unreadable(&error))?;
            self.head(header(stat, EntryType::Regular, small.len() as u64), &[], &more)?;
            self.out.content(&small)?;
            self.out.pad(small.len() as u64)?;
            self.copied.bytes += small.len() as u64;
        }
        Ok(())
    }

    fn unreadable(&self, error: &io::Error) -> ArchiveError {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        ArchiveError::call("read", self.path())(errno)
    }

    fn stream(&mut self, content: &mut File, size: u64) -> Result<()> {
        let mut buffer = vec![0; SMALL];
        let mut left = size;
        let mut ended = false;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(SMALL).min(SMALL);
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let mut len = wanted;
            if ended {
                piece.fill(0);
            } else {
                len = content.read(piece).map_err(|error| self.unreadable(&error))?;
                ended = len == 0;
            }
            self.out.content(piece.get(..len).unwrap_or_default())?;
            left -= len as u64;
        }
        self.copied.bytes += size;
        self.out.pad(size)
    }
}

fn is_kernels(folder: BorrowedFd<'_>) -> bool {
    fstatfs(folder).is_ok_and(|stat| {
        let kind = stat.filesystem_type();
        kind == PROC_SUPER_MAGIC
            || kind == SYSFS_MAGIC
            || kind == nix::sys::statfs::CGROUP2_SUPER_MAGIC
    })
}

fn header(stat: &FileStat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
    header.set_size(size);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        let part = |number: u64| u32::try_from(number).unwrap_or_default();
        // A header of this kind has the fields.
        let _ = header.set_device_major(part(major(stat.st_rdev)));
        let _ = header.set_device_minor(part(minor(stat.st_rdev)));
    }
    header
}
