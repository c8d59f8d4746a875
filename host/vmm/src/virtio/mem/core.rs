//! The requests of the guest, as a plain function over memory and the blocks. No descriptor and no
//! thread.

use std::io::{Read, Write};
use std::ops::Range;

use virtio_queue::Queue;

use super::blocks::{Blocks, State};
use crate::Memory;
use crate::memory::discard;
use crate::virtio::Counters;
use crate::virtio::queue::{self, Limits, Outcome, QueueError, Request, Served};

/// `struct virtio_mem_req`: type, gap, address, number of blocks, gap. virtio 1.2 §5.15.6.
const REQUEST_LEN: usize = 24;
/// `struct virtio_mem_resp`: type, gap, state. virtio 1.2 §5.15.6.
const RESPONSE_LEN: usize = 10;
const LIMITS: Limits = Limits { descriptors: 16, readable: 4096, writable: 4096 };

/// Blocks whose pages the host takes in one turn, 64 MiB: more would keep other devices waiting.
pub const TURN_BLOCKS: usize = 32;

/// VIRTIO_MEM_REQ_*. virtio 1.2 §5.15.6.
const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// VIRTIO_MEM_RESP_*. virtio 1.2 §5.15.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Done.
    Ack,
    /// Done: this is what the blocks are.
    State(State),
    /// More than the host wants, or where nothing can be plugged now.
    Nack,
    /// The request makes no sense.
    Error,
}

impl Answer {
    fn to_bytes(self) -> [u8; RESPONSE_LEN] {
        let (kind, state): (u16, u16) = match self {
            Self::Ack | Self::State(State::Plugged) => (0, 0),
            Self::State(State::Unplugged) => (0, 1),
            Self::State(State::Mixed) => (0, 2),
            Self::Nack => (1, 0),
            Self::Error => (3, 0),
        };
        let mut bytes = [0; RESPONSE_LEN];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&state.to_le_bytes());
        bytes
    }
}

/// What the device counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Requests that were done.
    pub requests: u64,
    /// Those for more than the host wants.
    pub refused: u64,
    /// Runs of blocks whose pages the host could not take.
    pub failed: u64,
    /// Requests and buffers that make no sense.
    pub malformed: u64,
}

impl Numbers {
    /// By name.
    #[must_use]
    pub fn counters(&self) -> Counters {
        [
            ("requests", self.requests),
            ("refused", self.refused),
            ("failed", self.failed),
            ("malformed", self.malformed),
        ]
        .into()
    }

    fn count(&mut self, answer: Answer) {
        match answer {
            Answer::Ack | Answer::State(_) => self.requests += 1,
            Answer::Nack => self.refused += 1,
            Answer::Error => self.malformed += 1,
        }
    }
}

/// Answers requests until there is none, and takes pages of unplugged blocks until the turn is
/// over.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn process(
    queue: &mut Queue,
    memory: &Memory,
    blocks: &mut Blocks,
    numbers: &mut Numbers,
) -> Result<Outcome, QueueError> {
    let mut outcome = queue::pass(queue, memory, |chain| {
        let written = Request::split(chain, memory, LIMITS)
            .ok()
            .and_then(|request| serve(request, blocks, numbers));
        if written.is_none() {
            numbers.malformed += 1;
        }
        Served::Used(written.unwrap_or_default())
    })?;
    outcome.more |= take_pages(memory, blocks, numbers);
    Ok(outcome)
}

/// Gives the pages of unplugged blocks back to the host, for one turn. True if there are more.
fn take_pages(memory: &Memory, blocks: &mut Blocks, numbers: &mut Numbers) -> bool {
    let mut left = TURN_BLOCKS;
    while let Some(range) = blocks.leaving(left) {
        if range.is_empty() {
            return true;
        }
        left -= range.len();
        let (addr, len) = blocks.place(&range);
        if let Err(error) = discard(memory, addr, len) {
            tracing::debug!(%error, "pages of unplugged blocks not given back");
            numbers.failed += 1;
        }
        blocks.left(&range);
    }
    false
}

/// Answers one request. Returns the bytes of the answer, `None` if there is no place for it or the
/// request is cut off.
fn serve(request: Request<'_>, blocks: &mut Blocks, numbers: &mut Numbers) -> Option<u32> {
    let Request { mut reader, mut writer, .. } = request;
    // Nothing is done that cannot be told.
    if writer.available_bytes() < RESPONSE_LEN {
        return None;
    }
    let mut bytes = [0; REQUEST_LEN];
    reader.read_exact(&mut bytes).ok()?;
    let answer = answer(bytes, blocks);
    numbers.count(answer);
    writer.write_all(&answer.to_bytes()).ok()?;
    Some(writer.written())
}

fn answer(request: [u8; REQUEST_LEN], blocks: &mut Blocks) -> Answer {
    let [kind_low, kind_high, _, _, _, _, _, _, a, b, c, d, e, f, g, h, low, high, ..] = request;
    let addr = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let range = blocks.range(addr, u16::from_le_bytes([low, high]));
    match (u16::from_le_bytes([kind_low, kind_high]), range) {
        (PLUG, Some(range)) => plug(blocks, &range),
        (UNPLUG, Some(range)) if blocks.state(&range) == State::Plugged => {
            blocks.unplug(&range);
            Answer::Ack
        }
        (UNPLUG_ALL, _) => {
            blocks.unplug(&blocks.all());
            Answer::Ack
        }
        (STATE, Some(range)) => Answer::State(blocks.state(&range)),
        _ => Answer::Error,
    }
}

/// Usable blocks are memory without more: the host gives pages when they are touched.
fn plug(blocks: &mut Blocks, range: &Range<usize>) -> Answer {
    let (addr, len) = blocks.place(range);
    // The driver may not know yet that less of the region is usable: it is told to look again.
    let is_usable = addr + len <= blocks.addr() + blocks.usable_len();
    if !is_usable || blocks.plugged_len() + len > blocks.requested_len() {
        return Answer::Nack;
    }
    if blocks.state(range) != State::Unplugged {
        return Answer::Error;
    }
    blocks.plug(range);
    Answer::Ack
}

#[cfg(test)]
mod tests;
