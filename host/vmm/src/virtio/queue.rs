//! Queues: how the driver sets one up, and one pass over it, the same for every device core: chain
//! after chain, bounded, with the guest's wish for interrupts honoured. No descriptor and no
//! thread.
//!
//! [`request`] is how a device gets at what a chain says.

pub mod request;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

pub use self::request::{ChainError, Limits, Reader, Request, Writer};
use crate::Memory;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`, virtio 1.2 §2.7.6.
const AVAIL_NO_INTERRUPT: u16 = 1;

/// The guest's queue makes no sense; it is not to be touched again until it is set up anew.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A ring says what it cannot say, or lies outside of memory.
    #[error("use the guest's queue")]
    Ring(#[from] virtio_queue::Error),
}

/// Why the driver's set-up is no queue.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not a power of two up to what the device offers.
    #[error("set up queue: {size} descriptors of at most {max_size}")]
    Size {
        /// As asked for.
        size: u32,
        /// As offered.
        max_size: u16,
    },
    /// A ring is not aligned. virtio 1.2 §2.7.
    #[error("set up queue")]
    Alignment(#[source] virtio_queue::Error),
    /// A ring is not in guest memory, or reaches beyond it.
    #[error("set up queue: a ring is outside of guest memory")]
    Bounds,
}

/// One queue as the driver sets it up, register by register. Checked when it becomes a [`Queue`],
/// and not looked at from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// The most descriptors that the device offers; a power of two.
    pub max_size: u16,
    /// Number of descriptors.
    pub size: u32,
    /// The driver is done with it.
    pub ready: bool,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
}

impl QueueConfig {
    /// A queue that is not set up.
    #[must_use]
    pub fn new(max_size: u16) -> Self {
        Self { max_size, size: 0, ready: false, descriptors: 0, available: 0, used: 0 }
    }

    /// The queue, if the driver set up one: its three rings lie wholly in memory.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn activate(&self, memory: &Memory, event_idx: bool) -> Result<Option<Queue>, SetupError> {
        if !self.ready || self.size == 0 {
            return Ok(None);
        }
        let wrong_size = || SetupError::Size { size: self.size, max_size: self.max_size };
        let size = u16::try_from(self.size).map_err(|_| wrong_size())?;
        let mut queue = Queue::new(self.max_size).map_err(|_| wrong_size())?;
        queue.try_set_size(size).map_err(|_| wrong_size())?;
        queue
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(self.available)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(self.used)))
            .map_err(SetupError::Alignment)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        // Crate virtio-queue takes an available ring at 0 for one that was never set.
        if self.available == 0 || !queue.is_valid(memory) {
            return Err(SetupError::Bounds);
        }
        Ok(Some(queue))
    }
}

/// What a pass over a queue did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Buffers were used: other work may be possible now.
    pub progress: bool,
    /// The guest wants an interrupt for it.
    pub notify: bool,
    /// The pass ended because a full queue of chains was taken: there may be more.
    pub more: bool,
}

/// What became of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It is done with, and so many bytes were written to it.
    Used(u32),
    /// It was taken, and is given back later.
    Taken,
    /// It stays in the queue, and the pass ends.
    Left,
}

/// A chain of the guest.
pub type Chain<'a> = DescriptorChain<&'a Memory>;

/// One pass over a queue: `serve` gets chain after chain until there is none, it leaves one, or a
/// full queue of them was taken.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn pass(
    queue: &mut Queue,
    memory: &Memory,
    mut serve: impl FnMut(Chain<'_>) -> Served,
) -> Result<Outcome, QueueError> {
    let mut outcome = Outcome::default();
    let mut budget = queue.size();
    loop {
        if budget == 0 {
            outcome.more = true;
            break;
        }
        let Some(chain) = queue.iter(memory)?.next() else {
            // Ask for a kick, then look again: the guest may have added before it saw us ask.
            if queue.enable_notification(memory)? {
                budget -= 1;
                continue;
            }
            break;
        };
        let head = chain.head_index();
        if head >= queue.size() {
            return Err(virtio_queue::Error::InvalidDescriptorIndex.into());
        }
        match serve(chain) {
            Served::Used(len) => {
                queue.add_used(memory, head, len)?;
                outcome.progress = true;
            }
            Served::Taken => {}
            Served::Left => {
                queue.go_to_previous_position();
                break;
            }
        }
        budget -= 1;
    }
    if outcome.progress {
        outcome.notify = wants_interrupt(queue, memory)?;
    }
    Ok(outcome)
}

/// As [`pass`], and over when there was `left` work: `serve` also says how much each chain was, in
/// bytes of whatever takes time. The last one may be more than was left.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn turn(
    queue: &mut Queue,
    memory: &Memory,
    mut left: u64,
    mut serve: impl FnMut(Chain<'_>) -> (Served, u64),
) -> Result<Outcome, QueueError> {
    let mut over = false;
    let mut outcome = pass(queue, memory, |chain| {
        if left == 0 {
            over = true;
            return Served::Left;
        }
        let (served, work) = serve(chain);
        left = left.saturating_sub(work);
        served
    })?;
    outcome.more |= over;
    Ok(outcome)
}

/// Whether the guest wants an interrupt for what was used since the last time that this was asked.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn wants_interrupt(queue: &mut Queue, memory: &Memory) -> Result<bool, QueueError> {
    if !queue.needs_notification(memory)? {
        return Ok(false);
    }
    if queue.event_idx_enabled() {
        return Ok(true);
    }
    // Without event indexes crate virtio-queue always says yes. virtio 1.2 §2.7.7.2.
    let flags = memory.read_obj::<u16>(GuestAddress(queue.avail_ring()));
    let flags = flags.map_err(virtio_queue::Error::GuestMemory)?;
    Ok(u16::from_le(flags) & AVAIL_NO_INTERRUPT == 0)
}

#[cfg(test)]
mod tests;
