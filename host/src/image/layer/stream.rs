//! A layer's bytes on their way: one thread reads the blob, hashes it and takes the compression
//! off; the caller's thread hashes the result and reads it as tar. Each byte is hashed once for
//! each digest it belongs to; an uncompressed layer has only one.
//!
//! ```text
//! blob -> hash -> decompress -> chunks ==channel==> hash -> caller
//! ```

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use super::super::digest::{Digest, Hasher};
use super::super::progress::Progress;
use super::LayerError;
use super::tar::{TarError, TarInput};

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Chunks under way between the threads.
const CHUNKS_UNDER_WAY: usize = 6;
const READ_BUFFER: usize = 256 << 10;

/// What a layer must be.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Digest of the blob as stored; a docker archive has none.
    pub blob: Option<Digest>,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
}

impl Layout {
    /// The digest that names the layer in messages.
    pub fn name(&self) -> &Digest {
        self.blob.as_ref().unwrap_or(&self.diff_id)
    }
}

/// How bytes are compressed, told by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// Looks at the first bytes of a stream. Known compressions that are not supported are
    /// refused by name.
    pub fn detect(start: &[u8]) -> Result<Self, &'static str> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            // A skippable frame may come first (eStargz and zstd:chunked put theirs last).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
            [b'B', b'Z', b'h', ..] => Err("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Err("xz"),
            _ => Ok(Compression::None),
        }
    }

    /// The uncompressed bytes of `input`.
    pub fn reader<'a>(self, input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        })
    }
}

/// Hands the uncompressed tar of a layer to `consume` and checks both digests. A wrong digest is
/// the error, whatever `consume` thought of the bytes.
pub fn stream_layer<E: From<LayerError>>(
    blob: Box<dyn Read + Send>,
    layout: &Layout,
    progress: &dyn Progress,
    consume: impl FnOnce(&mut LayerStream<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut blob = BufReader::with_capacity(READ_BUFFER, blob);
    let start = blob.fill_buf().map_err(LayerError::Blob)?;
    let compression = Compression::detect(start).map_err(LayerError::Compression)?;

    let expected_blob = match compression {
        Compression::None => Some(layout.blob.as_ref().unwrap_or(&layout.diff_id)),
        Compression::Gzip | Compression::Zstd => layout.blob.as_ref(),
    };
    // The bytes of an uncompressed layer are the bytes of its diff id.
    let same_bytes = compression == Compression::None
        && expected_blob.is_some_and(|blob| blob.algorithm() == layout.diff_id.algorithm());
    let blob =
        Hashed { inner: blob, hasher: expected_blob.map(Digest::hasher), consumed: Arc::default() };

    let (chunks_out, chunks_in) = sync_channel(CHUNKS_UNDER_WAY);
    let (empty_out, empty_in) = channel();
    thread::scope(|scope| {
        let producer = thread::Builder::new()
            .name("layer".to_owned())
            .spawn_scoped(scope, move || produce(blob, compression, &chunks_out, &empty_in))
            .map_err(LayerError::Blob)?;
        let hasher = (!same_bytes).then(|| layout.diff_id.hasher());
        let mut stream = LayerStream {
            chunks: chunks_in,
            empty: empty_out,
            chunk: Vec::new(),
            at: 0,
            is_over: false,
            hasher,
            progress,
        };
        let consumed = consume(&mut stream).and_then(|()| Ok(stream.drain()?));
        let hasher = stream.hasher.take();
        drop(stream);
        let actual_blob = producer.join().map_err(|_| {
            LayerError::Blob(io::Error::other("the thread that reads the blob panicked"))
        })?;
        let actual_blob = actual_blob.map_err(LayerError::Blob)?;
        check(expected_blob, actual_blob)?;
        consumed?;
        // Without a hasher of its own, the tar is the blob, which was just checked.
        let tar = hasher.map(Hasher::finish).or_else(|| expected_blob.cloned());
        match tar {
            Some(actual) if actual != layout.diff_id => {
                Err(LayerError::DiffId { expected: layout.diff_id.clone(), actual }.into())
            }
            _ => Ok(()),
        }
    })
}

fn check(expected: Option<&Digest>, actual: Option<Digest>) -> Result<(), LayerError> {
    match (expected, actual) {
        (Some(expected), Some(actual)) if *expected != actual => Err(LayerError::Digest { actual }),
        _ => Ok(()),
    }
}

/// A chunk, or the end of all chunks by an error.
type Message = io::Result<Chunk>;

struct Chunk {
    bytes: Vec<u8>,
    /// Bytes of the blob read for it.
    blob_bytes: u64,
}

/// The producing thread: sends chunks until the end, an error, or until nobody listens; then
/// reads the rest of the blob for its digest.
fn produce(
    mut blob: Hashed,
    compression: Compression,
    chunks: &SyncSender<Message>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<Option<Digest>> {
    if let Err(error) = send_chunks(&mut blob, compression, chunks, empty) {
        // Whoever listens hears of it; who does not has an error of its own.
        let _ = chunks.send(Err(error));
    }
    if blob.hasher.is_some() {
        io::copy(&mut blob, &mut io::sink())?;
    }
    Ok(blob.hasher.map(Hasher::finish))
}

fn send_chunks(
    blob: &mut Hashed,
    compression: Compression,
    chunks: &SyncSender<Message>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    let consumed = blob.consumed.clone();
    let mut told = 0;
    let mut reader = compression.reader(blob)?;
    loop {
        let mut bytes = empty.try_recv().unwrap_or_default();
        bytes.resize(CHUNK, 0);
        let filled = read_full(&mut reader, &mut bytes)?;
        bytes.truncate(filled);
        let is_last = filled < CHUNK;
        let now = consumed.load(Ordering::Relaxed);
        let sent = chunks.send(Ok(Chunk { bytes, blob_bytes: now - told }));
        told = now;
        if is_last || sent.is_err() {
            return Ok(());
        }
    }
}

fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Hashes what is taken out of a buffered reader.
struct Hashed {
    inner: BufReader<Box<dyn Read + Send>>,
    hasher: Option<Hasher>,
    /// Bytes taken so far; shared, because a decompressor owns the reader while it works.
    consumed: Arc<AtomicU64>,
}

impl BufRead for Hashed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.inner.buffer()[..count]);
        }
        self.consumed.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        self.inner.consume(count);
    }
}

impl Read for Hashed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

fn read_buffered(reader: &mut impl BufRead, out: &mut [u8]) -> io::Result<usize> {
    let available = reader.fill_buf()?;
    let count = available.len().min(out.len());
    out[..count].copy_from_slice(&available[..count]);
    reader.consume(count);
    Ok(count)
}

/// The uncompressed bytes of a layer.
pub struct LayerStream<'a> {
    chunks: Receiver<Message>,
    /// Chunks that were read go back to be filled again.
    empty: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    is_over: bool,
    hasher: Option<Hasher>,
    progress: &'a dyn Progress,
}

impl LayerStream<'_> {
    /// Reads to the end: the digest is that of the whole stream, the archive may end before it.
    fn drain(&mut self) -> Result<(), LayerError> {
        while !self.fill_buf().map_err(TarError::from)?.is_empty() {
            self.at = self.chunk.len();
        }
        Ok(())
    }
}

impl BufRead for LayerStream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.chunk.len() && !self.is_over {
            // The producer never waits for this channel: a closed one is no error.
            let _ = self.empty.send(std::mem::take(&mut self.chunk));
            self.at = 0;
            match self.chunks.recv() {
                Ok(message) => {
                    let chunk = message.inspect_err(|_| self.is_over = true)?;
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&chunk.bytes);
                    }
                    self.progress.advance(chunk.blob_bytes);
                    self.chunk = chunk.bytes;
                }
                Err(_) => self.is_over = true,
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for LayerStream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

impl TarInput for LayerStream<'_> {}
