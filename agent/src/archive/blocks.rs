//! The blocks of an archive: POSIX pax, and GNU's long names, which are what writers write.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

use tar::{EntryType, Header};

use super::{ArchiveError, MAX_NAME_LEN, Result};

/// POSIX.1-2024, pax, "ustar Interchange Format".
pub const BLOCK: usize = 512;
/// Of a name in the plain header.
const NAME_LEN: usize = 100;
/// Most that extended headers of one entry may have.
const MAX_EXTENSION: u64 = 256 << 10;

/// An entry's head, with what extended headers said of it.
#[derive(Debug)]
pub struct Head {
    pub kind: EntryType,
    pub path: PathBuf,
    /// Of a link.
    pub target: PathBuf,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_s: i64,
    /// Major and minor.
    pub device: (u32, u32),
    /// Extended attributes.
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// Reads an archive block by block.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    /// Those that were whole.
    pub entries: u64,
}

/// What is known of an entry before its own header.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime_s: Option<i64>,
    attributes: Vec<(String, Vec<u8>)>,
    /// Bytes of all that was said.
    len: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(stream: R) -> Self {
        Self { stream, entries: 0 }
    }

    /// The next head; nothing at the end, after which the stream is read to its own end.
    pub fn head(&mut self) -> Result<Option<Head>> {
        let mut extension = Extension::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let number = |result: io::Result<u64>| result.map_err(|_| self.broken("a number"));
            let size = number(header.entry_size())?;
            if is_extension(header.entry_type()) {
                extension.len = extension.len.saturating_add(size);
                if extension.len > MAX_EXTENSION {
                    return Err(self.broken("its extended headers are too long"));
                }
            }
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extension.target = Some(self.long_name(size)?),
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    self.read_records(&records, &mut extension)?;
                }
                // Says something of all entries: a comment, as a rule.
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                _ => return self.finish(&header, size, extension).map(Some),
            }
        }
    }

    fn finish(&self, header: &Header, size: u64, extension: Extension) -> Result<Head> {
        let small = |number: u64| u32::try_from(number).map_err(|_| self.broken("a number"));
        let number = |result: io::Result<u64>| result.map_err(|_| self.broken("a number"));
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let own_target = || header.link_name_bytes().map(|name| name.into_owned());
        let target = extension.target.or_else(own_target).unwrap_or_default();
        let bytes = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
        // No number is there where there is no device.
        let part = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or_default();
        Ok(Head {
            kind: header.entry_type(),
            path: bytes(path),
            target: bytes(target),
            size: extension.size.unwrap_or(size),
            mode: header.mode().map_err(|_| self.broken("a mode"))?,
            uid: small(extension.uid.map_or_else(|| number(header.uid()), Ok)?)?,
            gid: small(extension.gid.map_or_else(|| number(header.gid()), Ok)?)?,
            mtime_s: match extension.mtime_s {
                Some(seconds) => seconds,
                None => i64::try_from(number(header.mtime())?).unwrap_or_default(),
            },
            device: (part(header.device_major()), part(header.device_minor())),
            attributes: extension.attributes,
        })
    }

    fn broken(&self, reason: &'static str) -> ArchiveError {
        ArchiveError::Broken { entries: self.entries, reason }
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let read = self.read_full(header.as_mut_bytes())?;
        match read {
            // Without its two empty blocks an archive ends too.
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(self.truncated("a header")),
        }
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            // What follows is padding; the writer must not find the stream closed.
            let drained = io::copy(&mut self.stream, &mut io::sink());
            drained.map_err(|error| ArchiveError::Stream("read", error))?;
            return Ok(None);
        }
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            // The sum's own field counts as spaces.
            .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) })
            .sum();
        match header.cksum() {
            Ok(said) if said == sum => Ok(Some(header)),
            _ => Err(self.broken("the checksum of a header is wrong")),
        }
    }

    pub fn truncated(&self, place: &str) -> ArchiveError {
        ArchiveError::Truncated(format!("{place}, after {} entries", self.entries))
    }

    /// Reads until the buffer is full or the stream has ended.
    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.stream.read(rest) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Stream("read", error)),
            }
        }
        Ok(filled)
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        self.content(size, "an extended header", |bytes| {
            body.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(body)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.extension(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if name.len() >= MAX_NAME_LEN {
            return Err(self.broken("a name is longer than 4095 bytes"));
        }
        Ok(name)
    }

    fn read_records(&self, records: &[u8], extension: &mut Extension) -> Result<()> {
        let mut rest = records;
        while !rest.is_empty() {
            let (key, value, after) =
                record(rest).ok_or_else(|| self.broken("an extended header"))?;
            rest = after;
            let number = || {
                let text = std::str::from_utf8(value).ok()?;
                text.split('.').next()?.parse::<i64>().ok()
            };
            let natural = || {
                let number = number().and_then(|number| u64::try_from(number).ok());
                number.map(Some).ok_or_else(|| self.broken("a number"))
            };
            match key {
                "path" | "linkpath" if value.len() >= MAX_NAME_LEN => {
                    return Err(self.broken("a name is longer than 4095 bytes"));
                }
                "path" => extension.path = Some(value.to_owned()),
                "linkpath" => extension.target = Some(value.to_owned()),
                "size" => extension.size = natural()?,
                "uid" => extension.uid = natural()?,
                "gid" => extension.gid = natural()?,
                "mtime" => extension.mtime_s = number(),
                key if key.starts_with("GNU.sparse.") => {
                    return Err(self.broken("sparse files are not supported"));
                }
                key => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        extension.attributes.push((name.to_owned(), value.to_owned()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands an entry's content on, piece by piece, and skips its padding.
    pub fn content(
        &mut self,
        size: u64,
        place: &str,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = [0; 32 << 10];
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let read = self.read_full(piece)?;
            if read < wanted {
                return Err(self.truncated(place));
            }
            take(piece)?;
            left -= wanted as u64;
        }
        let padding = padding(size);
        let mut rest = [0; BLOCK];
        let rest = rest.get_mut(..padding).unwrap_or_default();
        if self.read_full(rest)? < padding { Err(self.truncated(place)) } else { Ok(()) }
    }
}

/// Whether it says something of the entry that follows it, or of all.
fn is_extension(kind: EntryType) -> bool {
    use EntryType::{GNULongLink, GNULongName, XGlobalHeader, XHeader};
    matches!(kind, GNULongName | GNULongLink | XHeader | XGlobalHeader)
}

/// The first record's key and value, and what follows it. By its length: there may be a line break
/// in a value, for which the package's own reader takes the end.
fn record(records: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let blank = records.iter().position(|&byte| byte == b' ')?;
    let len: usize = std::str::from_utf8(records.get(..blank)?).ok()?.parse().ok()?;
    let body = records.get(blank + 1..len)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    let key = std::str::from_utf8(body.get(..equals)?).ok()?;
    Some((key, body.get(equals + 1..)?, records.get(len..)?))
}

/// Bytes after a content, up to the next block.
fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    (BLOCK - over) % BLOCK
}

/// As star(1) and after it everybody names extended attributes.
const XATTR: &str = "SCHILY.xattr.";

/// Writes an archive.
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    pub fn new(stream: W) -> Self {
        Self(stream)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(|error| ArchiveError::Stream("write", error))
    }

    /// Begins an entry. The header has all but its names.
    pub fn head(
        &mut self,
        mut header: Header,
        name: &[u8],
        target: &[u8],
        attributes: &[(&str, Vec<u8>)],
    ) -> Result<()> {
        if !attributes.is_empty() {
            self.extended(attributes)?;
        }
        for (kind, text) in [(EntryType::GNULongName, name), (EntryType::GNULongLink, target)] {
            if text.len() > NAME_LEN {
                self.long(kind, b"././@LongLink", &[text, b"\0"].concat())?;
            }
        }
        let fields = header.as_old_mut();
        for (slot, byte) in fields.name.iter_mut().zip(name) {
            *slot = *byte;
        }
        for (slot, byte) in fields.linkname.iter_mut().zip(target) {
            *slot = *byte;
        }
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn long(&mut self, kind: EntryType, name: &[u8], body: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        for (slot, byte) in header.as_old_mut().name.iter_mut().zip(name) {
            *slot = *byte;
        }
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(body.len() as u64);
        header.set_entry_type(kind);
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.write(body)?;
        self.pad(body.len() as u64)
    }

    fn extended(&mut self, attributes: &[(&str, Vec<u8>)]) -> Result<()> {
        let mut body = Vec::new();
        for (name, value) in attributes {
            // The length counts itself.
            let rest = 1 + XATTR.len() + name.len() + 1 + value.len() + 1;
            let mut len = rest;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            body.extend_from_slice(format!("{len} {XATTR}{name}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.long(EntryType::XHeader, b"pax", &body)
    }

    /// A piece of the entry's content.
    pub fn content(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }

    /// Ends a content of this size.
    pub fn pad(&mut self, size: u64) -> Result<()> {
        let zeros = [0; BLOCK];
        self.write(zeros.get(..padding(size)).unwrap_or_default())
    }

    /// Two empty blocks.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        self.0.flush().map_err(|error| ArchiveError::Stream("write", error))?;
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads(archive: &[u8]) -> Result<Vec<(PathBuf, Vec<u8>, usize)>> {
        let mut reader = Reader::new(archive);
        let mut heads = Vec::new();
        while let Some(head) = reader.head()? {
            let mut content = Vec::new();
            reader.content(head.size, "a test", |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })?;
            heads.push((head.path, content, head.attributes.len()));
        }
        Ok(heads)
    }

    fn archive(name: &str, content: &[u8], attributes: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        let mut writer = Writer::new(Vec::new());
        writer.head(header, name.as_bytes(), b"", attributes).unwrap();
        writer.content(content).unwrap();
        writer.pad(content.len() as u64).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn extended_headers_of_an_entry_are_limited_together() {
        let mut writer = Writer::new(Vec::new());
        for _ in 0..5 {
            writer.extended(&[("user.x", vec![1; 60 << 10])]).unwrap();
        }
        let Writer(mut archive) = writer;
        archive.extend(super::tests::archive("name", b"", &[]));
        let error = heads(&archive).unwrap_err().to_string();
        assert!(error.contains("its extended headers are too long"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in "[a-z/]{1,300}",
            content in prop::collection::vec(any::<u8>(), 0..2000),
            value in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let archive = archive(&name, &content, &[("security.capability", value)]);
            prop_assert_eq!(heads(&archive).unwrap(), vec![(PathBuf::from(&name), content, 1)]);
            let mut theirs = tar::Archive::new(&archive[..]);
            let entry = theirs.entries().unwrap().next().unwrap().unwrap();
            prop_assert_eq!(entry.path_bytes().into_owned(), name.as_bytes());
        }

        #[test]
        fn damage_is_an_error_and_no_panic(at in 0_usize..2048, byte in any::<u8>()) {
            let mut archive = archive(&"n".repeat(150), b"content", &[("user.x", vec![1; 30])]);
            if let Some(slot) = archive.get_mut(at) {
                *slot = byte;
            }
            let _ = heads(&archive);
            let _ = heads(&archive[..at.min(archive.len())]);
        }
    }
}
