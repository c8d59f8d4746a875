//! What a hostile guest does with its rings and memory, for any device core.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::script::Script;
use crate::Memory;
use crate::virtio::queue::{Outcome, QueueError};
use crate::virtio::testing::{self, Buffer, Descriptor, DriverQueue};

/// After so many turns in a row a queue has no end.
const MAX_TURNS: usize = 10_000;

/// A device core under test.
pub trait Subject {
    /// The sizes of its queues.
    const QUEUES: &'static [u16];

    /// One pass over queue `index`.
    ///
    /// # Errors
    /// [`QueueError`]: the queue is broken.
    fn turn(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError>;

    /// The host does something, out of 256 things.
    fn host(&mut self, what: u8) {
        let _ = what;
    }
}

struct Pair {
    driver: DriverQueue,
    device: Queue,
}

/// Lets a guest that is spelt out by `bytes` use a device, until there are no more or a queue is
/// broken.
///
/// # Panics
/// When a turn has no end, or gives back what was not given.
pub fn play<S: Subject>(bytes: &[u8], subject: &mut S) {
    let memory = testing::memory();
    let mut script = Script::new(bytes);
    let Some(start) = script.u8() else { return };
    let pair = |(index, size): (usize, &u16)| {
        let mut driver = DriverQueue::new(&memory, index, *size);
        let mut device = driver.device_queue();
        device.set_event_idx(start & 1 != 0);
        if start & 2 != 0 {
            driver.skip_to(u16::MAX - 3, &mut device);
        }
        Pair { driver, device }
    };
    let mut pairs: Vec<Pair> = S::QUEUES.iter().enumerate().map(pair).collect();
    while let Some(moved) = step(&mut script, &memory, &mut pairs, subject) {
        if moved.is_err() {
            return;
        }
    }
}

/// One move. `None` at the end of the script.
fn step(
    script: &mut Script<'_>,
    memory: &Memory,
    pairs: &mut [Pair],
    subject: &mut impl Subject,
) -> Option<Result<(), QueueError>> {
    let what = script.u8()?;
    let index = usize::from(what >> 4) % pairs.len();
    let Pair { driver, device } = &mut pairs[index];
    match what & 0xf {
        0..4 => return Some(turns(index, device, memory, subject)),
        4 => subject.host(script.u8()?),
        5 => driver.publish(u16::from(script.u8()?)),
        6 => driver.set_avail_idx(script.u16()?),
        7 => driver.set_used_event(script.u16()?),
        8 => {
            let at = GuestAddress(script.address()?);
            let len = script.u8()?;
            // Outside of memory nothing is written.
            let _ = memory.write_slice(script.bytes(usize::from(len)), at);
        }
        9 => add_good_chain(script, driver)?,
        _ => {
            let index = u16::from(script.u8()?) % device.size();
            let (addr, len) = (script.address()?, script.length()?);
            let (flags, next) = (u16::from(script.u8()?), u16::from(script.u8()?));
            driver.write_descriptor(index, Descriptor { addr, len, flags, next });
        }
    }
    Some(Ok(()))
}

/// A chain as an honest driver makes it, for what is behind the first checks.
fn add_good_chain(script: &mut Script<'_>, driver: &mut DriverQueue) -> Option<()> {
    let shape = script.u8()?;
    let (readable, writable) = (shape & 3, shape >> 2 & 3);
    let mut buffers: Vec<Buffer> = Vec::new();
    for _ in 0..readable {
        let len = script.u8()?;
        buffers.push(driver.readable(script.bytes(usize::from(len))));
    }
    for _ in 0..writable {
        let len = usize::try_from(script.length()?).ok()?.min(0x1_0000);
        buffers.push(driver.writable(len));
    }
    if buffers.is_empty() {
        return Some(());
    }
    if shape & 0x10 == 0 {
        driver.add(&buffers);
    } else {
        driver.add_indirect(&buffers);
    }
    Some(())
}

/// Turns until the device wants no more.
fn turns(
    index: usize,
    queue: &mut Queue,
    memory: &Memory,
    subject: &mut impl Subject,
) -> Result<(), QueueError> {
    for _ in 0..MAX_TURNS {
        let outcome = subject.turn(index, queue, memory)?;
        let taken = queue.next_avail().wrapping_sub(queue.next_used());
        assert!(taken <= queue.size(), "chains are given back once");
        if !outcome.more {
            return Ok(());
        }
    }
    panic!("the queue has no end");
}
