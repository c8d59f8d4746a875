//! Files by name, out of a folder or out of a tar archive that can be read in any order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::layer::Compression;
use super::super::layer::tar::{EntryType, TarInput, TarReader, display_name};
use super::super::progress::Progress;
use super::{ArchiveError, MAX_JSON};

/// Most files in an archive: three for each layer of each of many images.
const MAX_MEMBERS: usize = 100_000;
/// Most bytes of an archive that is written to the spool.
const MAX_SPOOL: u64 = 256 << 30;
/// Most links from one member to another; old docker archives have one.
const MAX_LINKS: usize = 4;
const BUFFER: usize = 64 << 10;

/// Files by name.
pub enum Container {
    /// Below a folder.
    Folder(PathBuf),
    /// In a tar archive.
    Tar {
        /// The archive, uncompressed.
        file: Arc<File>,
        /// Its members by name.
        members: HashMap<String, Member>,
    },
}

/// A member of a tar archive.
pub enum Member {
    /// Where its bytes are.
    File {
        /// Offset in the archive.
        offset: u64,
        /// Length in bytes.
        bytes: u64,
    },
    /// The name of another one.
    Link(String),
}

impl Container {
    /// The files below `path`.
    pub fn folder(path: &Path) -> Result<Self, ArchiveError> {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(Container::Folder(path.to_owned())),
            Ok(_) => Err(io_error("open folder", io::ErrorKind::NotADirectory.into())),
            Err(error) => Err(io_error("open folder", error)),
        }
    }

    /// The members of the archive `path`, in place when it is an uncompressed file.
    pub fn tar(path: &Path, spool: &Path, progress: &dyn Progress) -> Result<Self, ArchiveError> {
        let mut file = File::open(path).map_err(|error| io_error("open archive", error))?;
        let metadata = file.metadata().map_err(|error| io_error("open archive", error))?;
        let mut start = [0; 8];
        let is_plain = metadata.is_file()
            && file.read_at(&mut start, 0).is_ok()
            && Compression::detect(&start) == Ok(Compression::None);
        if is_plain {
            return Self::index(file);
        }
        Self::spooled(&mut file, spool, progress)
    }

    /// The members of the archive that `input` streams, through a file in `spool`.
    pub fn spooled(
        input: &mut dyn Read,
        spool: &Path,
        progress: &dyn Progress,
    ) -> Result<Self, ArchiveError> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        let start = input.fill_buf().map_err(|error| io_error("read archive", error))?;
        let compression = Compression::detect(start).map_err(ArchiveError::Compression)?;
        let mut reader =
            compression.reader(input).map_err(|error| io_error("read archive", error))?;
        let path = spool.join("archive.tar");
        let create = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let mut file = create.map_err(|error| io_error("spool archive", error))?;
        progress.begin("read archive", None);
        let copied = copy(&mut *reader, &mut file, progress);
        progress.end();
        copied?;
        Self::index(file)
    }

    /// Reads the headers of an uncompressed archive.
    fn index(file: File) -> Result<Self, ArchiveError> {
        let file = Arc::new(file);
        let end = file.metadata().map_err(|error| io_error("read archive", error))?.len();
        let mut tar = TarReader::new(FileSlice::new(file.clone(), 0, end));
        let mut members = HashMap::new();
        while let Some(entry) = tar.next_entry()? {
            let member = match entry.kind {
                EntryType::File if entry.sparse.is_none() => {
                    Member::File { offset: tar.input().position(), bytes: entry.size }
                }
                EntryType::HardLink => Member::Link(normal_name(&entry.link)),
                EntryType::Symlink => {
                    Member::Link(symlink_target(&normal_name(&entry.path), &entry.link))
                }
                _ => continue,
            };
            if members.len() >= MAX_MEMBERS {
                let why = "it has more than 100000 files";
                return Err(ArchiveError::Shape { what: display_name(&entry.path), why });
            }
            members.insert(normal_name(&entry.path), member);
        }
        Ok(Container::Tar { file, members })
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Container::Folder(root) => root.join(name).is_file(),
            Container::Tar { members, .. } => members.contains_key(name),
        }
    }

    /// Size and bytes of the file `name`, which messages call `what`. For a folder, `name` must
    /// be known to stay below it.
    pub fn open(
        &self,
        name: &str,
        what: impl FnOnce() -> String,
    ) -> Result<(u64, Box<dyn Read + Send>), ArchiveError> {
        match self {
            Container::Folder(root) => match open_file(&root.join(name)) {
                Ok((bytes, file)) => Ok((bytes, Box::new(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(ArchiveError::Missing { what: what(), path: name.to_owned() })
                }
                Err(error) => Err(io_error("open file of the layout", error)),
            },
            Container::Tar { file, members } => {
                let (offset, bytes) = find_member(members, name).ok_or_else(|| {
                    let path: String = name.chars().take(200).collect();
                    ArchiveError::Missing { what: what(), path }
                })?;
                let slice = FileSlice::new(file.clone(), offset, offset.saturating_add(bytes));
                Ok((bytes, Box::new(slice)))
            }
        }
    }

    /// All of the small file `name`.
    pub fn read(&self, name: &str, what: impl Fn() -> String) -> Result<Vec<u8>, ArchiveError> {
        let (bytes, reader) = self.open(name, &what)?;
        if bytes > MAX_JSON {
            return Err(ArchiveError::TooLarge { what: what() });
        }
        let mut content = Vec::new();
        let read = reader.take(MAX_JSON).read_to_end(&mut content);
        read.map_err(|error| io_error("read archive", error))?;
        Ok(content)
    }
}

fn find_member(members: &HashMap<String, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = name;
    for _ in 0..=MAX_LINKS {
        match members.get(name)? {
            Member::File { offset, bytes } => return Some((*offset, *bytes)),
            Member::Link(target) => name = target,
        }
    }
    None
}

/// Opens a regular file; anything else could block.
fn open_file(path: &Path) -> io::Result<(u64, File)> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((metadata.len(), file))
}

fn copy(
    reader: &mut dyn Read,
    file: &mut File,
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; 4 * BUFFER];
    let mut total = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io_error("read archive", error)),
        };
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        total += bytes;
        if total > MAX_SPOOL {
            let why = "it has more than 256 GiB";
            return Err(ArchiveError::Shape { what: "archive".to_owned(), why });
        }
        file.write_all(&buffer[..count]).map_err(|error| io_error("spool archive", error))?;
        progress.advance(bytes);
    }
}

/// A member's name without what does not matter in it.
fn normal_name(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    parts.join("/")
}

/// The name that a symbolic link in `link` means, among the names of the archive.
fn symlink_target(link: &str, target: &[u8]) -> String {
    let target = String::from_utf8_lossy(target);
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn io_error(op: &'static str, source: io::Error) -> ArchiveError {
    ArchiveError::Io { op, source }
}

/// A part of a file, read without moving the file's own position.
pub struct FileSlice {
    file: Arc<File>,
    /// Where the next read is.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// What of `buffer` was consumed already.
    consumed: usize,
}

impl FileSlice {
    /// The bytes from `start` up to `end`.
    pub fn new(file: Arc<File>, start: u64, end: u64) -> Self {
        FileSlice { file, at: start, end, buffer: Vec::new(), consumed: 0 }
    }

    /// Where in the file the next byte is that is not consumed yet.
    pub fn position(&self) -> u64 {
        self.at - self.buffered()
    }

    fn buffered(&self) -> u64 {
        u64::try_from(self.buffer.len() - self.consumed).unwrap_or(0)
    }

    fn read_file(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let limit = left.min(out.len());
        let count = self.file.read_at(&mut out[..limit], self.at)?;
        self.at += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }
}

impl BufRead for FileSlice {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.buffer.len() {
            // Headers are far apart: a small buffer reads little for nothing.
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(4096, 0);
            let count = self.read_file(&mut buffer)?;
            buffer.truncate(count);
            self.buffer = buffer;
            self.consumed = 0;
        }
        Ok(&self.buffer[self.consumed..])
    }

    fn consume(&mut self, count: usize) {
        self.consumed += count;
    }
}

impl Read for FileSlice {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffered() == 0 && out.len() >= 4096 {
            return self.read_file(out);
        }
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl TarInput for FileSlice {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let buffered = self.buffered();
        if count <= buffered {
            self.consumed += usize::try_from(count).unwrap_or(0);
            return Ok(());
        }
        self.buffer.clear();
        self.consumed = 0;
        let to = self.at.checked_add(count - buffered).filter(|to| *to <= self.end);
        self.at = to.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}
