//! What a VM and its VMM print, kept within bounds: the newest bytes in memory, and on disk if
//! wanted. Reads pipes in threads; understands nothing of the text.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const READ_BYTES: usize = 4096;
/// The longest line that [`Capture::last_lines`] gives, in characters.
const MAX_LINE_CHARS: usize = 200;

/// The newest bytes of a stream.
#[derive(Debug)]
struct Tail {
    bytes: VecDeque<u8>,
    limit: usize,
    seen: u64,
}

impl Tail {
    fn push(&mut self, new: &[u8]) {
        self.seen = self.seen.saturating_add(new.len() as u64);
        let new = &new[new.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + new.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.bytes.extend(new);
    }
}

/// A file of at most `limit` bytes, and one of as many with what came before, under the same name
/// and `.1`.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: File,
    len: u64,
    limit: u64,
}

impl RotatingFile {
    /// Starts an empty file, readable by its owner only.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn create(path: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open_new(path)?, len: 0, limit })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.len > 0 && self.len.saturating_add(bytes.len() as u64) > self.limit {
            std::fs::rename(&self.path, previous(&self.path))?;
            self.file = open_new(&self.path)?;
            self.len = 0;
        }
        self.len += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Where the part before the newest one is.
#[must_use]
pub fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// A stream being read to its end.
#[derive(Debug)]
pub struct Capture {
    tail: Arc<Mutex<Tail>>,
    /// Disconnected once all was read.
    ended: Receiver<()>,
}

impl Capture {
    /// Reads `source` in a thread of its own, keeps its last `limit` bytes, and writes all of it
    /// to `log`. A log that cannot be written is given up; reading goes on.
    ///
    /// # Errors
    /// Those of a thread's start.
    pub fn start(
        name: &str,
        source: impl Read + Send + 'static,
        limit: usize,
        log: Option<RotatingFile>,
    ) -> io::Result<Self> {
        let tail = Arc::new(Mutex::new(Tail { bytes: VecDeque::new(), limit, seen: 0 }));
        let shared = tail.clone();
        let (end, ended) = mpsc::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _end = end;
            capture(source, &shared, log);
        })?;
        Ok(Self { tail, ended })
    }

    /// Bytes that came until now.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.lock().seen
    }

    /// The last `count` lines that say something, without control characters, shortened.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let tail = self.lock();
        let (front, back) = tail.bytes.as_slices();
        let text = [front, back].concat();
        drop(tail);
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<String> =
            text.lines().rev().map(printable).filter(|line| !line.is_empty()).take(count).collect();
        lines.reverse();
        lines
    }

    /// Waits until the stream has ended, which it has when its writers are gone; not longer than
    /// `timeout`: a VMM that was taken over may have given its end away.
    pub fn finish(&self, timeout: Duration) {
        // Too late or ended: what was read is there.
        let _ = self.ended.recv_timeout(timeout);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn capture(mut source: impl Read, tail: &Mutex<Tail>, mut log: Option<RotatingFile>) {
    let mut buffer = [0; READ_BYTES];
    loop {
        let new = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(new);
        if let Some(file) = &mut log
            && let Err(error) = file.write(new)
        {
            tracing::warn!(%error, path = %file.path.display(), "console log given up");
            log = None;
        }
    }
}

/// The guest writes the console: nothing of it may move the terminal that shows it.
fn printable(line: &str) -> String {
    let clean = line.chars().filter(|c| !c.is_control()).take(MAX_LINE_CHARS);
    clean.collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(text: &'static [u8], limit: usize, log: Option<RotatingFile>) -> Capture {
        let capture = Capture::start("test", text, limit, log).unwrap();
        capture.finish(Duration::from_secs(60));
        capture
    }

    #[test]
    fn newest_lines_are_kept_and_old_ones_dropped() {
        let capture = captured(b"first\nsecond\n\nthird\n", 14, None);
        assert_eq!(capture.last_lines(2), ["second", "third"]);
        assert_eq!(capture.last_lines(9), ["second", "third"]);
        assert_eq!(capture.seen(), 20);
    }

    #[test]
    fn control_characters_of_the_guest_are_not_shown() {
        let capture = captured(b"\x1b[2Jpanic\x07\r\n\xff\n", 100, None);
        assert_eq!(capture.last_lines(2), ["[2Jpanic", "\u{fffd}"]);
    }

    #[test]
    fn endless_line_is_bounded() {
        static LONG: [u8; 100_000] = [b'x'; 100_000];
        let capture = captured(&LONG, 1000, None);
        assert_eq!(capture.last_lines(1)[0].len(), MAX_LINE_CHARS);
        assert_eq!(capture.lock().bytes.len(), 1000);
    }

    #[test]
    fn log_on_disk_is_bounded_and_holds_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let mut log = RotatingFile::create(&path, 10).unwrap();
        for part in ["aaaa", "bbbb", "cccc", "dddd", "eeee"] {
            log.write(part.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "eeee");
        assert_eq!(std::fs::read_to_string(previous(&path)).unwrap(), "ccccdddd");
    }

    #[test]
    fn writer_that_never_goes_is_not_waited_for() {
        let (reader, mut writer) = io::pipe().unwrap();
        let capture = Capture::start("test", reader, 100, None).unwrap();
        writer.write_all(b"last words\n").unwrap();
        while capture.seen() == 0 {
            std::thread::yield_now();
        }
        capture.finish(Duration::from_millis(5));
        assert_eq!(capture.last_lines(1), ["last words"]);
        drop(writer);
    }

    #[test]
    fn log_that_cannot_be_written_does_not_end_the_capture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let mut log = RotatingFile::create(&path, 1).unwrap();
        log.write(b"a").unwrap();
        std::fs::remove_file(&path).unwrap();
        let capture = captured(b"still read\n", 100, Some(log));
        assert_eq!(capture.last_lines(1), ["still read"]);
    }
}
