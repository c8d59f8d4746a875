//! Files' data, written as it arrives, one file after the other from block 1 on. The short tail
//! of a file is held in memory and goes behind its inode later. Knows no tree.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use nix::fcntl::{FallocateFlags, fallocate};

use super::format::EXTENDED_SIZE;
use super::{BLOCK_SIZE, BLOCK_SIZE_U64};

/// Longest tail that is held back. Longer ones would waste more of the metadata's blocks than
/// the block that they save.
const MAX_TAIL: u64 = 2048;
/// Most bytes of tails held in memory; files after that take whole blocks.
const MAX_TAILS: usize = 64 << 20;
const WRITE_BUFFER: usize = 256 << 10;
/// Blocks after which the disk is asked to start writing.
const WRITEBACK_BLOCKS: u32 = (16 << 20) / 4096;
/// Zeros up to this many bytes are written; more become a hole in the image file.
const MAX_WRITTEN_ZEROS: u64 = 64 << 10;

/// Why data could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The image file cannot be written.
    #[error("write image disk")]
    Write(#[from] io::Error),
    /// More blocks than the format can count.
    #[error("image disk is larger than 16 TiB")]
    TooLarge,
}

/// Where a file's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    size: u64,
    /// First block; 0 when there is no whole block.
    block: u32,
    /// Where the tail is among the tails held back.
    tail: Option<usize>,
}

impl Content {
    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First block of the whole blocks.
    pub(super) fn block(&self) -> u32 {
        self.block
    }

    /// Length of the tail that is held back.
    pub(super) fn tail_len(&self) -> usize {
        let tail = if self.tail.is_some() { self.size % BLOCK_SIZE_U64 } else { 0 };
        usize::try_from(tail).unwrap_or(0)
    }

    fn blocks(&self) -> u64 {
        if self.tail.is_some() {
            self.size / BLOCK_SIZE_U64
        } else {
            self.size.div_ceil(BLOCK_SIZE_U64)
        }
    }
}

/// Writes files' data into an image file.
pub struct DataWriter {
    out: BufWriter<File>,
    next_block: u32,
    tails: Vec<u8>,
    writeback: Writeback,
    /// Block at which the disk is asked again.
    writeback_at: u32,
}

impl DataWriter {
    /// Data into `file`, which is empty.
    pub fn new(file: File) -> Result<Self, DataError> {
        let writeback = Writeback::start(file.try_clone()?)?;
        let mut out = BufWriter::with_capacity(WRITE_BUFFER, file);
        out.seek(SeekFrom::Start(BLOCK_SIZE_U64))?;
        let (next_block, writeback_at) = (1, WRITEBACK_BLOCKS);
        Ok(DataWriter { out, next_block, tails: Vec::new(), writeback, writeback_at })
    }

    /// A file of `size` bytes begins; its inode will have `xattr_bytes` of attributes.
    pub fn begin(&mut self, size: u64, xattr_bytes: usize) -> Result<FileWriter<'_>, DataError> {
        let tail = size % BLOCK_SIZE_U64;
        let tail_len = usize::try_from(tail).unwrap_or(BLOCK_SIZE);
        let is_inline = tail > 0
            && tail <= MAX_TAIL
            && EXTENDED_SIZE + xattr_bytes + tail_len <= BLOCK_SIZE
            && self.tails.len() + tail_len <= MAX_TAILS;
        let whole = if is_inline { size - tail } else { size };
        let content = Content {
            size,
            block: if whole > 0 { self.next_block } else { 0 },
            tail: is_inline.then_some(self.tails.len()),
        };
        let end = u64::from(self.next_block) + content.blocks();
        let next_block = u32::try_from(end).map_err(|_| DataError::TooLarge)?;
        Ok(FileWriter { data: self, content, next_block, whole_left: whole, left: size })
    }

    /// Blocks that are in use: the superblock's and the data's.
    pub(super) fn blocks(&self) -> u32 {
        self.next_block
    }

    /// The tail of `content` that was held back.
    pub(super) fn tail(&self, content: &Content) -> &[u8] {
        let start = content.tail.unwrap_or(0);
        &self.tails[start..start + content.tail_len()]
    }

    /// The image file behind the data, ready to be written from the first free block on. The
    /// blocks of `dropped` become holes; their number is given back.
    pub(super) fn close(&mut self, dropped: &[Content]) -> Result<u64, DataError> {
        self.out.flush()?;
        self.writeback.stop()?;
        let file = self.out.get_mut();
        let mut freed = 0;
        for content in dropped.iter().filter(|content| content.blocks() > 0) {
            punch(file, u64::from(content.block) * BLOCK_SIZE_U64, content.blocks())?;
            freed += content.blocks();
        }
        let end = u64::from(self.next_block) * BLOCK_SIZE_U64;
        file.set_len(end)?;
        self.out.seek(SeekFrom::Start(end))?;
        Ok(freed)
    }

    pub(super) fn out(&mut self) -> &mut BufWriter<File> {
        &mut self.out
    }

    pub(super) fn into_file(self) -> Result<File, DataError> {
        self.out.into_inner().map_err(|error| DataError::Write(error.into_error()))
    }
}

/// Writes one file's data.
pub struct FileWriter<'a> {
    data: &'a mut DataWriter,
    content: Content,
    /// First block after this file.
    next_block: u32,
    /// Bytes still to come that go to whole blocks.
    whole_left: u64,
    left: u64,
}

impl FileWriter<'_> {
    /// Adds `bytes`, which must not exceed what is left of the file.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let count = u64::try_from(bytes.len()).map_err(|_| DataError::TooLarge)?;
        self.left = self.left.checked_sub(count).ok_or_else(too_long)?;
        let whole = usize::try_from(self.whole_left).unwrap_or(usize::MAX).min(bytes.len());
        let (whole, tail) = bytes.split_at(whole);
        self.data.out.write_all(whole)?;
        self.whole_left -= count.min(self.whole_left);
        self.data.tails.extend_from_slice(tail);
        Ok(())
    }

    /// Adds `count` zeros.
    pub fn write_zeros(&mut self, count: u64) -> Result<(), DataError> {
        self.left.checked_sub(count).ok_or_else(too_long)?;
        let skipped = count.min(self.whole_left);
        let mut written = count;
        if skipped > MAX_WRITTEN_ZEROS {
            let step = i64::try_from(skipped).map_err(|_| DataError::TooLarge)?;
            self.data.out.seek(SeekFrom::Current(step))?;
            self.left -= skipped;
            self.whole_left -= skipped;
            written -= skipped;
        }
        while written > 0 {
            let step = written.min(BLOCK_SIZE_U64);
            self.write(&[0; BLOCK_SIZE][..usize::try_from(step).unwrap_or(BLOCK_SIZE)])?;
            written -= step;
        }
        Ok(())
    }

    /// Where the data is. What was not written reads as zeros.
    pub fn finish(mut self) -> Result<Content, DataError> {
        self.write_zeros(self.left)?;
        let padding = match self.content.tail {
            Some(_) => 0,
            None => self.content.blocks() * BLOCK_SIZE_U64 - self.content.size,
        };
        let padding = usize::try_from(padding).unwrap_or(0);
        self.data.next_block = self.next_block;
        self.data.out.write_all(&[0; BLOCK_SIZE][..padding])?;
        if self.data.next_block >= self.data.writeback_at {
            self.data.writeback.request();
            self.data.writeback_at = self.data.next_block.saturating_add(WRITEBACK_BLOCKS);
        }
        Ok(self.content)
    }
}

/// A thread that makes the disk write while layers are still read, so that little is left to
/// wait for at the end.
struct Writeback {
    /// Gone when the thread is to stop.
    requests: Option<SyncSender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Writeback {
    fn start(file: File) -> io::Result<Self> {
        let (requests, requested) = sync_channel(1);
        let thread = thread::Builder::new().name("writeback".to_owned()).spawn(move || {
            // An error is told here only: the kernel reports it once for each open file.
            requested.iter().try_for_each(|()| file.sync_data())
        })?;
        Ok(Writeback { requests: Some(requests), thread: Some(thread) })
    }

    fn request(&self) {
        if let Some(requests) = &self.requests {
            // One that waits already is as good; a thread that stopped has an error to tell.
            let _ = requests.try_send(());
        }
    }

    fn stop(&mut self) -> Result<(), DataError> {
        self.requests = None;
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(DataError::Write(error)),
            Some(Err(_)) => Err(DataError::Write(io::Error::other("the writing thread panicked"))),
        }
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        // A load that failed has told why.
        let _ = self.stop();
    }
}

fn too_long() -> DataError {
    DataError::Write(io::Error::other("more data than the file's size"))
}

/// Makes a hole, or writes zeros where the file system knows no holes.
fn punch(file: &mut File, offset: u64, blocks: u64) -> Result<(), DataError> {
    let signed = |n: u64| i64::try_from(n).map_err(|_| DataError::TooLarge);
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let length = signed(blocks * BLOCK_SIZE_U64)?;
    match fallocate(&*file, flags, signed(offset)?, length) {
        Ok(()) => Ok(()),
        Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS) => {
            for block in 0..blocks {
                file.write_all_at(&[0; BLOCK_SIZE], offset + block * BLOCK_SIZE_U64)?;
            }
            Ok(())
        }
        Err(error) => Err(DataError::Write(error.into())),
    }
}
