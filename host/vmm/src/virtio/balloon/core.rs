//! The queues of pages and of free memory, as plain functions over memory: what they name goes back
//! to the host. No descriptor and no thread.
//!
//! Which pages a guest gives away is its own affair, also its kernel's or its rings'. What is no
//! memory is counted and left alone.

use std::io::Read;

use virtio_queue::Queue;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::Memory;
use crate::memory::{PAGE_SIZE, discard};
use crate::virtio::Counters;
use crate::virtio::queue::{self, Chain, Limits, Outcome, QueueError, Request, Served};

/// The most page numbers of one buffer; Linux has 256.
pub const MAX_PAGES: usize = 1024;
/// With so many bytes a turn ends.
pub const TURN_LEN: u64 = 16 << 20;
/// The most that one chain of free memory gives back; Linux has 32 ranges of up to 4 MiB.
pub const MAX_REPORT_LEN: u64 = 128 << 20;
/// The most descriptors of a chain.
const MAX_DESCRIPTORS: usize = 128;
/// Bytes of a page number. virtio 1.2 §5.5.6.
const PAGE_NUMBER_LEN: usize = 4;

const LIMITS: Limits = Limits {
    descriptors: MAX_DESCRIPTORS,
    // MAX_PAGES numbers.
    readable: 4096,
    writable: 0,
};

/// What the device counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Pages that went into the balloon.
    pub inflated_pages: u64,
    /// Pages that the guest took back.
    pub deflated_pages: u64,
    /// Bytes of free memory that the guest told of.
    pub reported_bytes: u64,
    /// Bytes that the host got back, from both.
    pub discarded_bytes: u64,
    /// Pages that are no memory.
    pub bad_pages: u64,
    /// Runs of pages that the host would not take.
    pub failed: u64,
    /// Buffers that are none.
    pub malformed: u64,
    /// Times that the guest told how it is off.
    pub statistics: u64,
}

impl Numbers {
    /// By name.
    #[must_use]
    pub fn counters(&self) -> Counters {
        [
            ("inflated_pages", self.inflated_pages),
            ("deflated_pages", self.deflated_pages),
            ("reported_bytes", self.reported_bytes),
            ("discarded_bytes", self.discarded_bytes),
            ("bad_pages", self.bad_pages),
            ("failed", self.failed),
            ("malformed", self.malformed),
            ("statistics", self.statistics),
        ]
        .into()
    }
}

/// Takes pages until there is no buffer or the turn is over.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn inflate(
    queue: &mut Queue,
    memory: &Memory,
    numbers: &mut Numbers,
) -> Result<Outcome, QueueError> {
    turn(queue, memory, numbers, |chain, numbers| {
        let pages = page_numbers(chain, memory)?;
        let count = pages.len() as u64;
        numbers.inflated_pages += count;
        give_pages_back(memory, &pages, numbers);
        Some(count * PAGE_SIZE)
    })
}

/// Lets the guest have pages again: they are memory as before, so there is nothing else to do.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn deflate(
    queue: &mut Queue,
    memory: &Memory,
    numbers: &mut Numbers,
) -> Result<Outcome, QueueError> {
    turn(queue, memory, numbers, |chain, numbers| {
        let count = page_numbers(chain, memory)?.len() as u64;
        numbers.deflated_pages += count;
        Some(count * PAGE_SIZE)
    })
}

/// Takes the memory that buffers are in until there is none or the turn is over: the guest does not
/// use it, and what it holds may be lost. virtio 1.2 §5.5.6.7.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn report(
    queue: &mut Queue,
    memory: &Memory,
    numbers: &mut Numbers,
) -> Result<Outcome, QueueError> {
    turn(queue, memory, numbers, |chain, numbers| {
        let mut left = MAX_REPORT_LEN;
        for (addr, len) in free_ranges(chain)? {
            // A guest may tell of 4 GiB in each chain: in some hours that is more than 64 bits.
            numbers.reported_bytes = numbers.reported_bytes.saturating_add(len);
            if !addr.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
                numbers.bad_pages += 1;
                continue;
            }
            // Not to take what is free is no fault: the guest only offers.
            let len = len.min(left);
            left -= len;
            give_back(memory, addr, len, numbers);
        }
        Some(MAX_REPORT_LEN - left)
    })
}

/// One turn: `serve` says of how many bytes a chain speaks, or that it is malformed.
fn turn(
    queue: &mut Queue,
    memory: &Memory,
    numbers: &mut Numbers,
    mut serve: impl FnMut(Chain<'_>, &mut Numbers) -> Option<u64>,
) -> Result<Outcome, QueueError> {
    queue::turn(queue, memory, TURN_LEN, |chain| {
        let len = serve(chain, numbers);
        if len.is_none() {
            numbers.malformed += 1;
        }
        (Served::Used(0), len.unwrap_or_default())
    })
}

/// The pages that a chain names, each once, from the lowest up. `None`: it is none.
fn page_numbers(chain: Chain<'_>, memory: &Memory) -> Option<Vec<u32>> {
    let mut reader = Request::split(chain, memory, LIMITS).ok()?.reader;
    let len = reader.available_bytes();
    if len == 0 || !len.is_multiple_of(PAGE_NUMBER_LEN) {
        return None;
    }
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes).ok()?;
    let (numbers, _) = bytes.as_chunks::<PAGE_NUMBER_LEN>();
    let mut pages: Vec<u32> = numbers.iter().copied().map(u32::from_le_bytes).collect();
    pages.sort_unstable();
    pages.dedup();
    Some(pages)
}

/// Address and length of the buffers of a chain that are the device's, whatever they lie in.
/// `None`: it is none.
fn free_ranges(chain: Chain<'_>) -> Option<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut more = true;
    for descriptor in chain {
        if !descriptor.is_write_only() || ranges.len() == MAX_DESCRIPTORS {
            return None;
        }
        ranges.push((descriptor.addr().raw_value(), u64::from(descriptor.len())));
        more = descriptor.has_next();
    }
    // Crate virtio-queue ends a chain without a word where the next descriptor makes no sense.
    (!more).then_some(ranges)
}

/// Gives sorted pages back, neighbours together.
fn give_pages_back(memory: &Memory, pages: &[u32], numbers: &mut Numbers) {
    for run in pages.chunk_by(|page, next| page.checked_add(1) == Some(*next)) {
        let start = run.first().map_or(0, |&page| u64::from(page) * PAGE_SIZE);
        give_back(memory, start, run.len() as u64 * PAGE_SIZE, numbers);
    }
}

/// Gives whole pages back, as far as they are memory.
fn give_back(memory: &Memory, addr: u64, len: u64, numbers: &mut Numbers) {
    let end = addr.saturating_add(len);
    let mut memory_pages = 0;
    for region in memory.iter() {
        let region_start = region.start_addr().raw_value();
        let from = addr.max(region_start);
        let to = end.min(region_start.saturating_add(region.len()));
        let Some(part) = to.checked_sub(from).filter(|&part| part > 0) else { continue };
        memory_pages += part / PAGE_SIZE;
        match discard(memory, from, part) {
            Ok(()) => numbers.discarded_bytes = numbers.discarded_bytes.saturating_add(part),
            Err(error) => {
                tracing::debug!(%error, "pages not given back");
                numbers.failed += 1;
            }
        }
    }
    let bad_pages = (len / PAGE_SIZE).saturating_sub(memory_pages);
    numbers.bad_pages = numbers.bad_pages.saturating_add(bad_pages);
}

#[cfg(test)]
mod tests;
