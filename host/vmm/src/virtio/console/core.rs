//! The two queues of the port, as plain functions over guest memory. No descriptor and no thread.

use std::io::{self, Read, Write};

use virtio_queue::Queue;

use crate::Memory;
use crate::virtio::Counters;
use crate::virtio::queue::{self, Limits, Outcome, QueueError, Reader, Request, Served};

/// Index of the queue of bytes for the guest. virtio 1.2 §5.3.2.
pub const RX_QUEUE: usize = 0;
/// Index of the queue of bytes of the guest. virtio 1.2 §5.3.2.
pub const TX_QUEUE: usize = 1;
/// The most descriptors of a queue.
pub const QUEUE_SIZE: u16 = 64;
/// The most bytes of one chain of the guest.
pub const MAX_WRITE_LEN: u32 = 64 << 10;
/// With so many bytes, either way, a turn ends.
pub const TURN_LEN: u64 = 256 << 10;

/// Bytes that are read or written at once.
const STEP_LEN: usize = 4096;

const DESCRIPTORS: usize = QUEUE_SIZE as usize;
const TO_READ: Limits = Limits { descriptors: DESCRIPTORS, readable: MAX_WRITE_LEN, writable: 0 };
const TO_WRITE: Limits = Limits { descriptors: DESCRIPTORS, readable: 0, writable: u32::MAX };

/// What the device counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Bytes that the guest got.
    pub read_bytes: u64,
    /// Bytes that the host took.
    pub written_bytes: u64,
    /// Bytes of the guest that the host had no room for.
    pub dropped_bytes: u64,
    /// Chains that are none.
    pub malformed: u64,
}

impl Numbers {
    /// By name.
    #[must_use]
    pub fn counters(&self) -> Counters {
        [
            ("read_bytes", self.read_bytes),
            ("written_bytes", self.written_bytes),
            ("dropped_bytes", self.dropped_bytes),
            ("malformed", self.malformed),
        ]
        .into()
    }
}

/// Takes what the guest wrote until there is nothing or the turn is over. `output` does not block;
/// what it does not take is dropped.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn transmit(
    queue: &mut Queue,
    memory: &Memory,
    numbers: &mut Numbers,
    output: &mut impl Write,
) -> Result<Outcome, QueueError> {
    queue::turn(queue, memory, TURN_LEN, |chain| {
        let Ok(mut request) = Request::split(chain, memory, TO_READ) else {
            numbers.malformed += 1;
            return (Served::Used(0), 0);
        };
        let len = request.reader.available_bytes();
        pass_on(&mut request.reader, numbers, output);
        (Served::Used(0), len as u64)
    })
}

fn pass_on(reader: &mut Reader<'_>, numbers: &mut Numbers, output: &mut impl Write) {
    let mut bytes = [0; STEP_LEN];
    // Once it takes no more, the rest of the chain is lost with it.
    let mut takes = true;
    // Reading from memory does not fail: 0 is the end.
    while let Ok(len @ 1..) = reader.read(&mut bytes) {
        let taken = if takes { write_some(output, &bytes[..len]) } else { 0 };
        takes = taken == len;
        numbers.written_bytes += taken as u64;
        numbers.dropped_bytes += (len - taken) as u64;
    }
}

/// How much of it was taken.
fn write_some(output: &mut impl Write, bytes: &[u8]) -> usize {
    let mut taken = 0;
    while taken < bytes.len() {
        match output.write(&bytes[taken..]) {
            Ok(0) => break,
            Ok(len) => taken += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    taken
}

/// Gives the guest what `input` has until it has nothing, there is no buffer, or the turn is over.
/// `input` does not block.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn receive(
    queue: &mut Queue,
    memory: &Memory,
    numbers: &mut Numbers,
    input: &mut impl Read,
) -> Result<Outcome, QueueError> {
    queue::turn(queue, memory, TURN_LEN, |chain| {
        let request = Request::split(chain, memory, TO_WRITE);
        let Some(mut writer) = request
            .ok()
            .map(|request| request.writer)
            .filter(|writer| writer.available_bytes() > 0)
        else {
            numbers.malformed += 1;
            return (Served::Used(0), 0);
        };
        let mut bytes = [0; STEP_LEN];
        let room = writer.available_bytes().min(STEP_LEN);
        let Some(len) = read_some(input, &mut bytes[..room]) else { return (Served::Left, 0) };
        // There is room.
        let _ = writer.write_all(&bytes[..len]);
        numbers.read_bytes += len as u64;
        (Served::Used(writer.written()), len as u64)
    })
}

/// `None`: nothing now, or never again.
fn read_some(input: &mut impl Read, bytes: &mut [u8]) -> Option<usize> {
    loop {
        match input.read(bytes) {
            Ok(len) => return Some(len).filter(|&len| len > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests;
