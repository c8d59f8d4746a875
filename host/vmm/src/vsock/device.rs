//! The two queues of the device, as plain functions over guest memory. No descriptor and no
//! thread: any transport may call them, as may a test or a fuzzer.

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::muxer::Muxer;
use super::packet::{HEADER_LEN, Header, MAX_PAYLOAD_LEN};

/// Index of the queue of packets for the guest. virtio 1.2 §5.10.2.
pub const RX_QUEUE: usize = 0;
/// Index of the queue of packets of the guest. virtio 1.2 §5.10.2.
pub const TX_QUEUE: usize = 1;
/// Descriptors of one packet; a driver of Linux uses 2, or 1 and a page each with zero copy.
const MAX_CHAIN_LEN: usize = 64;

/// The guest's queue makes no sense; it is not to be touched again until it is set up anew.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A ring says what it cannot say, or lies outside of memory.
    #[error("use the guest's queue")]
    Ring(#[from] virtio_queue::Error),
}

/// What a pass over a queue did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Buffers were used: other work may be possible now.
    pub progress: bool,
    /// The guest wants an interrupt for it.
    pub notify: bool,
}

/// Takes packets of the guest until there is none, the muxer can take none, or a full queue of
/// them was taken.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn process_tx(
    muxer: &mut Muxer,
    memory: &GuestMemoryMmap,
    queue: &mut Queue,
) -> Result<Outcome, QueueError> {
    process(queue, memory, Muxer::can_receive, muxer, |muxer, chain| {
        receive_packet(muxer, memory, chain);
        Some(0)
    })
}

/// Gives packets to the guest until there is none, no buffer is left, or a full queue of them
/// was given.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn process_rx(
    muxer: &mut Muxer,
    memory: &GuestMemoryMmap,
    queue: &mut Queue,
) -> Result<Outcome, QueueError> {
    process(queue, memory, Muxer::has_output, muxer, |muxer, chain| {
        send_packet(muxer, memory, chain)
    })
}

/// One pass over a queue: `serve` gets chain after chain while `wanted`, and returns the bytes
/// written to it, or `None` to leave the chain in the queue and stop.
fn process(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    wanted: impl Fn(&Muxer) -> bool,
    muxer: &mut Muxer,
    mut serve: impl FnMut(&mut Muxer, &DescriptorChain<&GuestMemoryMmap>) -> Option<u32>,
) -> Result<Outcome, QueueError> {
    let mut outcome = Outcome::default();
    let mut budget = queue.size();
    while budget > 0 && wanted(muxer) {
        let Some(chain) = queue.iter(memory)?.next() else {
            // Ask for a kick, then look again: the guest may have added before it saw us ask.
            if queue.enable_notification(memory)? {
                budget -= 1;
                continue;
            }
            break;
        };
        let Some(used_len) = serve(muxer, &chain) else {
            queue.go_to_previous_position();
            break;
        };
        queue.add_used(memory, chain.head_index(), used_len)?;
        outcome.progress = true;
        budget -= 1;
    }
    if outcome.progress {
        outcome.notify = queue.needs_notification(memory)?;
    }
    Ok(outcome)
}

fn is_too_long(chain: &DescriptorChain<&GuestMemoryMmap>) -> bool {
    chain.clone().take(MAX_CHAIN_LEN + 1).count() > MAX_CHAIN_LEN
}

fn receive_packet(
    muxer: &mut Muxer,
    memory: &GuestMemoryMmap,
    chain: &DescriptorChain<&GuestMemoryMmap>,
) {
    if is_too_long(chain) {
        tracing::debug!("vsock packet in too many pieces dropped");
        return;
    }
    let Ok(mut reader) = chain.clone().reader(memory) else {
        tracing::debug!("vsock packet outside of memory dropped");
        return;
    };
    let Ok(header) = Header::read_from(&mut reader) else {
        tracing::debug!("vsock packet without a whole header dropped");
        return;
    };
    if header.len > MAX_PAYLOAD_LEN || reader.available_bytes() < header.len as usize {
        return muxer.receive_malformed(&header);
    }
    muxer.receive(&header, &mut reader);
}

/// `Some(0)` gives an unusable buffer back.
fn send_packet(
    muxer: &mut Muxer,
    memory: &GuestMemoryMmap,
    chain: &DescriptorChain<&GuestMemoryMmap>,
) -> Option<u32> {
    if is_too_long(chain) {
        return Some(0);
    }
    let Ok(mut writer) = chain.clone().writer(memory) else { return Some(0) };
    // A buffer that takes no payload could never be used for data: none is taken at all.
    let room = writer.available_bytes().checked_sub(HEADER_LEN).filter(|&room| room > 0);
    let Some(room) = room else { return Some(0) };
    match muxer.send(room, &mut writer) {
        Ok(written) => written.map(|len| u32::try_from(len).unwrap_or(u32::MAX)),
        Err(error) => {
            tracing::debug!(%error, "vsock packet could not be written to guest memory");
            Some(0)
        }
    }
}

#[cfg(test)]
mod tests;
