//! A reader of tar streams that trusts none of their numbers: POSIX ustar and pax, GNU long names
//! and GNU sparse files, with a bound on everything that is held in memory.
//!
//! Own code and not a crate, because a layer is hostile: extension headers must be bounded before
//! they are read, and pax records are needed in their order (sparse maps repeat their keys). Says
//! what the archive says; paths are judged elsewhere.
//!
//! Sources: POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax Extended Header"; GNU tar
//! manual, "Basic Tar Format" and "Storing Sparse Files".

use std::io::{self, BufRead};

use super::header::{DEV_MAJOR, DEV_MINOR, GID, Header, LINK, MODE, MTIME, SIZE, UID};
use super::pax::{self, Overrides};
use crate::image::tree::Timestamp;

/// Size of a header and unit of all padding.
pub const BLOCK: usize = 512;
pub(super) const BLOCK_U64: u64 = 512;
/// Most bytes of one extension header (a pax header or a long name).
const MAX_EXTENSION: u64 = 1 << 20;
/// Most extension headers in front of one entry.
const MAX_EXTENSIONS_IN_A_ROW: usize = 8;

/// Why a stream is not a tar archive that can be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream under the archive broke.
    #[error("read tar stream")]
    Read(#[source] io::Error),
    /// The stream ended inside an entry.
    #[error("tar stream is cut short")]
    Truncated,
    /// A header's checksum is wrong: this is not tar, or is damaged.
    #[error("not a tar archive, or a damaged one: header checksum is wrong")]
    Checksum,
    /// A field of a header is no number, or out of range.
    #[error("tar header field {field:?} is not valid")]
    Field {
        /// The field's name in the format's description.
        field: &'static str,
    },
    /// An extension header is larger than any honest one.
    #[error("tar extension header of {bytes} bytes (at most {MAX_EXTENSION} are accepted)")]
    ExtensionSize {
        /// Size as its header says.
        bytes: u64,
    },
    /// More extension headers in front of one entry than any honest archive has.
    #[error("more than {MAX_EXTENSIONS_IN_A_ROW} tar extension headers for one entry")]
    ExtensionCount,
    /// A sparse file's map makes no sense.
    #[error("sparse map of {entry:?} is not valid")]
    SparseMap {
        /// Name of the entry.
        entry: String,
    },
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated,
            _ => TarError::Read(error),
        }
    }
}

/// What an entry is, by its type flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryType {
    /// A file with data (`0`, NUL, `7`, and GNU's sparse `S`).
    File,
    /// Another name of an earlier file (`1`).
    HardLink,
    /// A symbolic link (`2`).
    Symlink,
    /// A character device (`3`).
    CharDevice,
    /// A block device (`4`).
    BlockDevice,
    /// A folder (`5`, or an old archive's file whose name ends in `/`).
    Directory,
    /// A named pipe (`6`).
    Fifo,
    /// Any other flag.
    Other(u8),
}

/// A piece of a sparse file that has data: `(offset, length)`.
pub type Piece = (u64, u64);

/// One entry, its extension headers applied.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name as in the archive.
    pub path: Vec<u8>,
    /// Target of a hard or symbolic link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// The permission bits with setuid, setgid and sticky: at most 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change of the data.
    pub mtime: Timestamp,
    /// Size of the file in bytes, holes of a sparse one included.
    pub size: u64,
    /// Extended attributes in the archive's order; a later one of a name wins.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Where a sparse file has data, ascending and not overlapping; nothing for an ordinary one.
    pub sparse: Option<Vec<Piece>>,
}

impl Entry {
    /// The name for messages: readable, and not longer than a line.
    pub fn display_name(&self) -> String {
        display_name(&self.path)
    }
}

/// `path` for messages: readable, and not longer than a line.
pub fn display_name(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    text.escape_debug().to_string()
}

/// A stream that can leave bytes out.
pub trait TarInput: BufRead {
    /// Leaves out `count` bytes. An end before them is [`io::ErrorKind::UnexpectedEof`].
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let available = self.fill_buf()?.len();
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(available);
            self.consume(step);
            count -= as_u64(step);
        }
        Ok(())
    }
}

impl TarInput for &[u8] {}

impl<T: TarInput> TarInput for &mut T {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        (**self).skip(count)
    }
}

/// A walk over the entries of a tar stream.
pub struct TarReader<R> {
    input: R,
    /// Bytes of the current entry's stored data not yet read, without padding.
    remaining: u64,
    /// Padding after the current entry's data.
    padding: u64,
}

/// What stands in front of an entry.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Overrides,
}

impl<R: TarInput> TarReader<R> {
    /// A walk from the start of `input`.
    pub fn new(input: R) -> Self {
        TarReader { input, remaining: 0, padding: 0 }
    }

    /// The stream, wherever it stands.
    pub fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// The next entry, or nothing at the end. What was not read of the last one is left out.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_data()?;
        let mut extensions = Extensions::default();
        for _ in 0..=MAX_EXTENSIONS_IN_A_ROW {
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let size = header.number(SIZE)?;
            match header.type_flag() {
                b'x' | b'X' => extensions.pax = pax::parse(&self.read_extension(size)?)?,
                // Global headers carry comments (git archive writes its commit); docker ignores
                // them.
                b'g' => drop(self.read_extension(size)?),
                b'L' => extensions.long_name = Some(until_nul(&self.read_extension(size)?)),
                b'K' => extensions.long_link = Some(until_nul(&self.read_extension(size)?)),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
        Err(TarError::ExtensionCount)
    }

    /// Bytes of stored data of the current entry that were not read yet.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Hands up to `limit` bytes of the current entry's data to `take`, in pieces.
    ///
    /// # Errors
    /// The stream's, those of `take`, and [`TarError::Truncated`] when the stream ends first.
    pub fn read_data<E: From<TarError>>(
        &mut self,
        limit: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut left = limit.min(self.remaining);
        while left > 0 {
            let buffer = self.input.fill_buf().map_err(TarError::from)?;
            if buffer.is_empty() {
                return Err(TarError::Truncated.into());
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            take(&buffer[..step])?;
            self.input.consume(step);
            left -= as_u64(step);
            self.remaining -= as_u64(step);
        }
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let rest = self.remaining.checked_add(self.padding).ok_or(bad("size"))?;
        self.input.skip(rest)?;
        self.remaining = 0;
        self.padding = 0;
        Ok(())
    }

    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK];
        if !read_block(&mut self.input, &mut block)? || block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header(block);
        if header.checksum_is_right() { Ok(Some(header)) } else { Err(TarError::Checksum) }
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::ExtensionSize { bytes: size });
        }
        self.set_data(size)?;
        let mut bytes = Vec::new();
        self.read_data(size, |piece| {
            bytes.extend_from_slice(piece);
            Ok::<_, TarError>(())
        })?;
        self.skip_data()?;
        Ok(bytes)
    }

    fn set_data(&mut self, size: u64) -> Result<(), TarError> {
        self.remaining = size;
        self.padding = (BLOCK_U64 - size % BLOCK_U64) % BLOCK_U64;
        // The sum must not overflow when the data is left out.
        size.checked_add(BLOCK_U64).map(drop).ok_or(bad("size"))
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let Extensions { long_name, long_link, mut pax } = extensions;
        let path = pax.path.take().or(long_name).unwrap_or_else(|| header.path());
        let link = pax.link.take().or(long_link).unwrap_or_else(|| header.text(LINK));
        let kind = header.entry_type(&path);
        let stored = match pax.size {
            Some(size) => size,
            None => header.number(SIZE)?,
        };
        // Links and folders have no data, whatever their size field says: some archivers write
        // the size of the file that a hard link shares.
        let stored = match kind {
            EntryType::File | EntryType::Other(_) => stored,
            _ => 0,
        };
        let device = match kind {
            EntryType::CharDevice | EntryType::BlockDevice => {
                (header.id(DEV_MAJOR)?, header.id(DEV_MINOR)?)
            }
            _ => (0, 0),
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => Timestamp { secs: header.signed(MTIME)?, nanos: 0 },
        };
        let mode = header.number(MODE)? & 0o7777;
        let mut entry = Entry {
            path,
            link,
            kind,
            mode: u16::try_from(mode).map_err(|_| bad("mode"))?,
            uid: pax.uid.map_or_else(|| header.id(UID), Ok)?,
            gid: pax.gid.map_or_else(|| header.id(GID), Ok)?,
            mtime,
            size: stored,
            xattrs: std::mem::take(&mut pax.xattrs),
            device,
            sparse: None,
        };
        self.set_data(stored)?;
        if header.type_flag() == b'S' {
            self.old_gnu_sparse(header, &mut entry)?;
        } else if pax.sparse.is_present() && kind == EntryType::File {
            self.pax_sparse(pax.sparse, &mut entry)?;
        }
        Ok(entry)
    }
}

/// Reads a whole block. False at the stream's end; an end inside the block is an error.
pub(super) fn read_block(
    input: &mut impl BufRead,
    block: &mut [u8; BLOCK],
) -> Result<bool, TarError> {
    let mut filled = 0;
    while filled < BLOCK {
        match input.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(TarError::Truncated),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

pub(super) fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

pub(super) fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

pub(super) fn bad(field: &'static str) -> TarError {
    TarError::Field { field }
}
