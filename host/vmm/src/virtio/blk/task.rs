//! A request as steps on a file, and what follows from each result: short transfers go on, what a
//! file cannot do is done in another way. Does no step itself.
//!
//! ```text
//! Transfer --short--> Transfer ... --all--> [Sync] --> answer
//! Clear: punch --cannot--> zero range --cannot--> write zeroes ... --> next range ... --> [Sync]
//! ```

use std::collections::VecDeque;

use nix::errno::Errno;

use super::core::Pending;
use super::request::{Answer, Range};
use super::segments::Segments;

/// Interrupted steps in a row that are tried again.
const MAX_RETRIES: u8 = 16;

/// How a range is cleared. fallocate(2); the size of the file stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    /// FALLOC_FL_PUNCH_HOLE: reads as zeroes, takes no space.
    Punch,
    /// FALLOC_FL_ZERO_RANGE: reads as zeroes, keeps its space.
    Zero,
}

/// One call to the kernel.
#[derive(Debug)]
pub enum Step<'a> {
    /// preadv(2)
    Read {
        /// In the file.
        offset: u64,
        /// Where to.
        data: &'a Segments,
    },
    /// pwritev2(2)
    Write {
        /// In the file.
        offset: u64,
        /// Where from.
        data: &'a Segments,
    },
    /// fallocate(2)
    Clear {
        /// How.
        how: Clear,
        /// In the file.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// fdatasync(2)
    Sync,
}

#[derive(Debug)]
enum State {
    Read {
        offset: u64,
        data: Segments,
    },
    Write {
        offset: u64,
        data: Segments,
    },
    /// The first range is the one at work.
    Clear {
        ranges: VecDeque<Range>,
        how: Clear,
        discard: bool,
    },
    /// A file that has no other way; the first range is what is left of it.
    Zeroes {
        ranges: VecDeque<Range>,
        data: Segments,
    },
    Sync,
}

/// A request in flight; owns what it needs.
#[derive(Debug)]
pub struct Task {
    /// How to give its chain back.
    pub pending: Pending,
    state: State,
    /// Stable storage is to have it before the driver is told.
    stable: bool,
    retries: u8,
}

impl Task {
    fn new(pending: Pending, state: State) -> Self {
        Self { pending, state, stable: false, retries: 0 }
    }

    /// Disk to memory.
    #[must_use]
    pub fn read(pending: Pending, offset: u64, data: Segments) -> Self {
        Self::new(pending, State::Read { offset, data })
    }

    /// Memory to disk.
    #[must_use]
    pub fn write(pending: Pending, offset: u64, data: Segments) -> Self {
        Self::new(pending, State::Write { offset, data })
    }

    /// What was written before reaches stable storage.
    #[must_use]
    pub fn flush(pending: Pending) -> Self {
        Self::new(pending, State::Sync)
    }

    /// Space that is not needed; what the file cannot give up, it keeps.
    #[must_use]
    pub fn discard(pending: Pending, ranges: Vec<Range>) -> Self {
        let ranges = VecDeque::from(ranges);
        Self::new(pending, State::Clear { ranges, how: Clear::Punch, discard: true })
    }

    /// Ranges that read as zeroes.
    #[must_use]
    pub fn write_zeroes(pending: Pending, ranges: Vec<Range>) -> Self {
        let how = first_way(ranges.first());
        let ranges = VecDeque::from(ranges);
        Self::new(pending, State::Clear { ranges, how, discard: false })
    }

    /// What it changes is to be on stable storage before it is done.
    #[must_use]
    pub fn stable(mut self) -> Self {
        self.stable =
            matches!(self.state, State::Write { .. } | State::Clear { .. } | State::Zeroes { .. });
        self
    }

    /// What is to be done next. The task stays where it is, and is told the result.
    #[must_use]
    pub fn step(&self) -> Step<'_> {
        match &self.state {
            State::Read { offset, data } => Step::Read { offset: *offset, data },
            State::Write { offset, data } => Step::Write { offset: *offset, data },
            State::Zeroes { ranges, data } => {
                let offset = ranges.front().map_or(0, |range| range.offset);
                Step::Write { offset, data }
            }
            State::Clear { ranges, how, .. } => match ranges.front() {
                Some(range) => Step::Clear { how: *how, offset: range.offset, len: range.len },
                None => Step::Sync,
            },
            State::Sync => Step::Sync,
        }
    }

    /// The result of the step. `Some` when the task is done.
    pub fn advance(&mut self, result: Result<usize, Errno>) -> Option<Answer> {
        match result {
            Err(Errno::EINTR | Errno::EAGAIN) if self.retries < MAX_RETRIES => {
                self.retries += 1;
                return None;
            }
            Err(error) => return self.fail(error),
            Ok(_) => self.retries = 0,
        }
        let len = result.unwrap_or(0);
        let more = match &mut self.state {
            State::Read { offset, data } | State::Write { offset, data } => {
                if len == 0 {
                    // The file ends before the disk does: it was cut since. Nothing is made up.
                    return Some(Answer::IoError);
                }
                data.advance(len);
                *offset += len as u64;
                !data.is_empty()
            }
            State::Zeroes { ranges, data } => {
                if len == 0 {
                    return Some(Answer::IoError);
                }
                *data = wrote_zeroes(ranges, len as u64);
                !ranges.is_empty()
            }
            State::Clear { ranges, how, discard } => {
                ranges.pop_front();
                *how = if *discard { Clear::Punch } else { first_way(ranges.front()) };
                !ranges.is_empty()
            }
            State::Sync => false,
        };
        if more { None } else { self.finish() }
    }

    fn finish(&mut self) -> Option<Answer> {
        if !std::mem::take(&mut self.stable) {
            return Some(Answer::Done);
        }
        self.state = State::Sync;
        None
    }

    fn fail(&mut self, error: Errno) -> Option<Answer> {
        // EINVAL: a block device whose sectors are larger than the guest's. Were it for another
        // reason, writing zeroes would tell.
        let unsupported = matches!(error, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL);
        match &mut self.state {
            // A discard is a hint. virtio 1.2 §5.2.6.2.
            State::Clear { discard: true, .. } if unsupported => self.finish(),
            State::Clear { how: how @ Clear::Punch, .. } if unsupported => {
                *how = Clear::Zero;
                None
            }
            State::Clear { ranges, .. } if unsupported => {
                let mut ranges = std::mem::take(ranges);
                let data = wrote_zeroes(&mut ranges, 0);
                self.state = State::Zeroes { ranges, data };
                None
            }
            _ => {
                tracing::debug!(%error, "request of a disk");
                Some(Answer::IoError)
            }
        }
    }
}

fn first_way(range: Option<&Range>) -> Clear {
    if range.is_some_and(|range| range.unmap) { Clear::Punch } else { Clear::Zero }
}

/// Takes `len` bytes off the first range, and the range when nothing is left; zeroes for what is
/// then the first.
fn wrote_zeroes(ranges: &mut VecDeque<Range>, len: u64) -> Segments {
    if let Some(range) = ranges.front_mut() {
        range.offset = range.offset.saturating_add(len);
        range.len = range.len.saturating_sub(len);
        if range.len == 0 {
            ranges.pop_front();
        }
    }
    Segments::zeroes(ranges.front().map_or(0, |range| range.len))
}

#[cfg(test)]
mod tests;
