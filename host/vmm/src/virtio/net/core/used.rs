//! Chains that hold one packet appear in the used ring at once: a driver that polls would else see
//! a packet without its end.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::Memory;
use crate::virtio::QueueError;
use crate::virtio::queue;

/// Bytes before the ring in both rings. virtio 1.2 §2.7.6, §2.7.8.
const RING_OFFSET: u64 = 4;
/// Bytes of an entry of the used ring. virtio 1.2 §2.7.8.
const USED_ENTRY_LEN: u64 = 8;
/// Bytes of an entry of the available ring. virtio 1.2 §2.7.6.
const AVAILABLE_ENTRY_LEN: u64 = 2;

/// Gives chains back, heads and lengths, and shows the driver all of them together.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn publish(
    queue: &mut Queue,
    memory: &Memory,
    chains: &[(u16, u32)],
) -> Result<(), QueueError> {
    let Some((&(last_head, last_len), others)) = chains.split_last() else { return Ok(()) };
    let mut next = queue.next_used();
    for &(head, len) in others {
        if head >= queue.size() {
            return Err(Error::InvalidDescriptorIndex.into());
        }
        let slot = u64::from(next % queue.size());
        let at = address(queue.used_ring(), RING_OFFSET + slot * USED_ENTRY_LEN)?;
        let [head, len] = [u32::from(head).to_le_bytes(), len.to_le_bytes()];
        memory.write_slice(&[head, len].concat(), at).map_err(Error::GuestMemory)?;
        next = next.wrapping_add(1);
    }
    queue.set_next_used(next);
    // It writes the index, with which all become visible.
    Ok(queue.add_used(memory, last_head, last_len)?)
}

/// Whether the driver wants an interrupt for what was used since the used index was `before`: as
/// [`queue::wants_interrupt`], which does not know of all chains that [`publish`] gave back.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn wants_interrupt(
    queue: &mut Queue,
    memory: &Memory,
    before: u16,
) -> Result<bool, QueueError> {
    let known = queue::wants_interrupt(queue, memory)?;
    if known || !queue.event_idx_enabled() {
        return Ok(known);
    }
    fence(Ordering::SeqCst);
    let offset = RING_OFFSET + u64::from(queue.size()) * AVAILABLE_ENTRY_LEN;
    let at = address(queue.avail_ring(), offset)?;
    let event = u16::from_le(memory.load(at, Ordering::Relaxed).map_err(Error::GuestMemory)?);
    // virtio 1.2 §2.7.10.1: it wants to know if its event lies in what was used.
    let now = queue.next_used();
    Ok(now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before))
}

fn address(ring: u64, offset: u64) -> Result<GuestAddress, Error> {
    ring.checked_add(offset).map(GuestAddress).ok_or(Error::AddressOverflow)
}
