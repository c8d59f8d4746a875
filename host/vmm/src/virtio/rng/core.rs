//! The queue of the device, as a plain function over guest memory and a source of random bytes. No
//! descriptor and no thread.

use std::io::{self, Write};

use virtio_queue::Queue;

use crate::Memory;
use crate::virtio::Counters;
use crate::virtio::queue::{self, Limits, Outcome, QueueError, Request, Served, Writer};

/// The most descriptors of the queue.
pub const QUEUE_SIZE: u16 = 64;
/// The most bytes for one buffer, however large it is. virtio 1.2 §5.4.6: one is enough.
pub const MAX_REQUEST_LEN: usize = 64 << 10;
/// With so many bytes a turn ends.
pub const TURN_LEN: u64 = 256 << 10;

/// Bytes that are asked of the source at once.
const STEP_LEN: usize = 4096;

const LIMITS: Limits = Limits { descriptors: QUEUE_SIZE as usize, readable: 0, writable: u32::MAX };

/// What the device counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Buffers that got bytes.
    pub requests: u64,
    /// Bytes that the guest got.
    pub read_bytes: u64,
    /// Buffers that are none.
    pub malformed: u64,
    /// Buffers that stayed empty because the source had nothing.
    pub failed: u64,
}

impl Numbers {
    /// By name.
    #[must_use]
    pub fn counters(&self) -> Counters {
        [
            ("requests", self.requests),
            ("read_bytes", self.read_bytes),
            ("malformed", self.malformed),
            ("failed", self.failed),
        ]
        .into()
    }
}

/// Fills buffers until there is none or the turn is over. `fill` fills all that it gets, and does
/// not block.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn process(
    queue: &mut Queue,
    memory: &Memory,
    numbers: &mut Numbers,
    mut fill: impl FnMut(&mut [u8]) -> io::Result<()>,
) -> Result<Outcome, QueueError> {
    queue::turn(queue, memory, TURN_LEN, |chain| {
        let request = Request::split(chain, memory, LIMITS);
        let Some(mut writer) = request
            .ok()
            .map(|request| request.writer)
            .filter(|writer| writer.available_bytes() > 0)
        else {
            numbers.malformed += 1;
            return (Served::Used(0), 0);
        };
        match give(&mut writer, &mut fill) {
            Ok(()) => numbers.requests += 1,
            Err(_) => numbers.failed += 1,
        }
        let written = writer.written();
        numbers.read_bytes += u64::from(written);
        (Served::Used(written), written.into())
    })
}

fn give(
    writer: &mut Writer<'_>,
    fill: &mut impl FnMut(&mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = writer.available_bytes().min(MAX_REQUEST_LEN);
    let mut bytes = [0; STEP_LEN];
    while left > 0 {
        let step = &mut bytes[..left.min(STEP_LEN)];
        fill(step)?;
        writer.write_all(step)?;
        left -= step.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
