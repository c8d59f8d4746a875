//! The two queues of the device, as plain functions over guest memory. No descriptor and no
//! thread: any transport may call them, as may a test or a fuzzer.

use virtio_queue::Queue;

use super::muxer::Muxer;
use super::packet::{HEADER_LEN, Header, MAX_PAYLOAD_LEN};
use crate::Memory;
use crate::virtio::queue::{self, Chain, Limits, Outcome, QueueError, Request, Served};

/// Index of the queue of packets for the guest. virtio 1.2 §5.10.2.
pub const RX_QUEUE: usize = 0;
/// Index of the queue of packets of the guest. virtio 1.2 §5.10.2.
pub const TX_QUEUE: usize = 1;
/// Descriptors of one packet; a driver of Linux uses 2, or 1 and a page each with zero copy.
const MAX_CHAIN_LEN: usize = 64;
/// Of a packet of the guest; its length is checked against its header.
const TX_LIMITS: Limits = Limits { descriptors: MAX_CHAIN_LEN, readable: u32::MAX, writable: 0 };
/// Of a buffer for a packet.
const RX_LIMITS: Limits = Limits { descriptors: MAX_CHAIN_LEN, readable: 0, writable: u32::MAX };

/// Takes packets of the guest until there is none, the muxer can take none, or a full queue of
/// them was taken.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn process_tx(
    muxer: &mut Muxer,
    memory: &Memory,
    queue: &mut Queue,
) -> Result<Outcome, QueueError> {
    if !muxer.can_receive() {
        return Ok(Outcome::default());
    }
    queue::pass(queue, memory, |chain| {
        if !muxer.can_receive() {
            return Served::Left;
        }
        receive_packet(muxer, memory, chain);
        Served::Used(0)
    })
}

/// Gives packets to the guest until there is none, no buffer is left, or a full queue of them
/// was given.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn process_rx(
    muxer: &mut Muxer,
    memory: &Memory,
    queue: &mut Queue,
) -> Result<Outcome, QueueError> {
    if !muxer.has_output() {
        return Ok(Outcome::default());
    }
    queue::pass(queue, memory, |chain| {
        if !muxer.has_output() {
            return Served::Left;
        }
        send_packet(muxer, memory, chain).map_or(Served::Left, Served::Used)
    })
}

fn receive_packet(muxer: &mut Muxer, memory: &Memory, chain: Chain<'_>) {
    let mut reader = match Request::split(chain, memory, TX_LIMITS) {
        Ok(request) => request.reader,
        Err(error) => {
            tracing::debug!(%error, "vsock packet dropped");
            return muxer.drop_malformed();
        }
    };
    let Ok(header) = Header::read_from(&mut reader) else {
        tracing::debug!("vsock packet without a whole header dropped");
        return muxer.drop_malformed();
    };
    if header.len > MAX_PAYLOAD_LEN || reader.available_bytes() < header.len as usize {
        return muxer.receive_malformed(&header);
    }
    muxer.receive(&header, &mut reader);
}

/// `Some(0)` gives an unusable buffer back.
fn send_packet(muxer: &mut Muxer, memory: &Memory, chain: Chain<'_>) -> Option<u32> {
    let Ok(Request { mut writer, .. }) = Request::split(chain, memory, RX_LIMITS) else {
        return Some(0);
    };
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
