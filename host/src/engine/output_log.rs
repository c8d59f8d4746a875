//! What a container wrote, on disk, byte for byte: Kubernetes' CRI log format, one record a line.
//!
//! ```text
//! 2026-01-31T12:00:00.123456789Z stdout F hello
//! 2026-01-31T12:00:00.223456789Z stderr P a line that has not ended ye
//! ```
//!
//! `F` ends with the newline that the container wrote, `P` with one that it did not. A log grows to
//! [`MAX_BYTES`], then becomes `.1` in place of the last one: a container cannot fill the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Size at which a log is turned over; at most twice this is on disk.
pub const MAX_BYTES: u64 = 16 << 20;

/// Longest piece of a line in one record. CRI's.
const MAX_LINE: usize = 16 << 10;

/// Which of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The older half of a log.
#[must_use]
pub fn previous(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Appends to a log.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
}

impl Writer {
    /// Opens a log, new or old.
    ///
    /// # Errors
    /// open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, limit: MAX_BYTES })
    }

    /// Appends what the container wrote in one piece.
    ///
    /// # Errors
    /// write(2), rename(2).
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let now = Timestamp::now();
        let mut records = Vec::with_capacity(bytes.len() + 64);
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in line.chunks(MAX_LINE) {
                let (text, tag) = match piece.split_last() {
                    Some((b'\n', text)) => (text, 'F'),
                    _ => (piece, 'P'),
                };
                write!(records, "{now:.9} {} {tag} ", stream.name())?;
                records.extend_from_slice(text);
                records.push(b'\n');
            }
        }
        if self.bytes + records.len() as u64 > self.limit && self.bytes > 0 {
            self.turn_over()?;
        }
        self.file.write_all(&records)?;
        self.bytes += records.len() as u64;
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        fs::rename(&self.path, previous(&self.path))?;
        self.file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it arrived.
    pub time: Timestamp,
    /// Where it was written to.
    pub stream: Stream,
    /// The bytes, newline included where there was one.
    pub bytes: Vec<u8>,
}

/// Reads a log from its older half on, and goes on where it ended when asked again.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    previous: Option<BufReader<File>>,
    current: Option<BufReader<File>>,
    /// A record whose end is not written yet.
    partial: Vec<u8>,
}

impl Reader {
    /// Opens a log. One that is not there yet is empty.
    ///
    /// # Errors
    /// open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let previous = open_if_there(&previous(path))?;
        let current = open_if_there(path)?;
        Ok(Self { path: path.to_owned(), previous, current, partial: Vec::new() })
    }

    /// The next record; `None` when there is no more for now.
    ///
    /// # Errors
    /// read(2); `InvalidData` for a line that is no record.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            if let Some(previous) = &mut self.previous {
                if let Some(record) = read_record(previous, &mut self.partial)? {
                    return Ok(Some(record));
                }
                self.previous = None;
                self.partial.clear();
            }
            if self.current.is_none() {
                self.current = open_if_there(&self.path)?;
            }
            let Some(current) = &mut self.current else { return Ok(None) };
            if let Some(record) = read_record(current, &mut self.partial)? {
                return Ok(Some(record));
            }
            if !self.was_turned_over()? {
                return Ok(None);
            }
            // Nothing more will be written to the file that we have open.
            self.previous = self.current.take();
        }
    }

    fn was_turned_over(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let Some(current) = &self.current else { return Ok(false) };
        let open = current.get_ref().metadata()?;
        match fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) != (open.dev(), open.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_record(reader: &mut impl BufRead, partial: &mut Vec<u8>) -> io::Result<Option<Record>> {
    reader.read_until(b'\n', partial)?;
    if partial.last() != Some(&b'\n') {
        return Ok(None);
    }
    let line = std::mem::take(partial);
    let record = parse(&line)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a log record"))?;
    Ok(Some(record))
}

fn parse(line: &[u8]) -> Option<Record> {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tag = parts.next()?;
    let mut bytes = parts.next()?.to_vec();
    if tag == b"P" {
        bytes.pop();
    }
    Some(Record { time, stream, bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(path: &Path) -> Vec<u8> {
        let mut reader = Reader::open(path).unwrap();
        let mut all = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            all.extend(record.bytes);
        }
        all
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("output.log");
            let mut writer = Writer::open(&path).unwrap();
            for piece in &pieces {
                writer.append(Stream::Stdout, piece).unwrap();
            }
            prop_assert_eq!(read_all(&path), pieces.concat());
        }
    }

    #[test]
    fn log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        let mut writer = Writer::open(&path).unwrap();
        writer.limit = 1000;
        for number in 0..100 {
            writer.append(Stream::Stderr, format!("line {number}\n").as_bytes()).unwrap();
        }
        let on_disk =
            fs::metadata(&path).unwrap().len() + fs::metadata(previous(&path)).unwrap().len();
        assert!(on_disk <= 2000, "{on_disk}");
        assert!(String::from_utf8(read_all(&path)).unwrap().ends_with("line 98\nline 99\n"));
    }

    #[test]
    fn reader_follows_over_a_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        let mut writer = Writer::open(&path).unwrap();
        writer.append(Stream::Stdout, b"one\n").unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(reader.next_record().unwrap().unwrap().bytes, b"one\n");
        assert!(reader.next_record().unwrap().is_none());
        writer.append(Stream::Stdout, b"two\n").unwrap();
        writer.turn_over().unwrap();
        writer.append(Stream::Stdout, b"three\n").unwrap();
        assert_eq!(reader.next_record().unwrap().unwrap().bytes, b"two\n");
        assert_eq!(reader.next_record().unwrap().unwrap().bytes, b"three\n");
        assert!(reader.next_record().unwrap().is_none());
    }
}
