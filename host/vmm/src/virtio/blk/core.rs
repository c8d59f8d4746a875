//! The device's queue, as plain functions over guest memory: what is taken, refused at once, and
//! given back. No descriptor and no thread: a test or a fuzzer may call them as the device does.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::request::{self, Answer, ID_LEN, Operation, Reason, Refused, Request, Segment, Shape};
use crate::Memory;
use crate::virtio::queue;
use crate::virtio::{Counters, Outcome, QueueError, Served};

/// What the guest sees of a disk beside its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// What decides about requests.
    pub shape: Shape,
    /// Serial number, filled up with zeroes.
    pub id: [u8; ID_LEN],
    /// A flush has nothing to do.
    pub disposable: bool,
}

/// Classes of requests that take time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

/// A chain that was taken: how to give it back.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    head: u16,
    status: GuestAddress,
    class: Class,
    bytes: u64,
}

/// Who does requests that take time.
pub trait Executor {
    /// One more can be started.
    fn has_room(&mut self) -> bool;
    /// The limits let a request of so many bytes pass. Only asked if there is room; what passes is
    /// started.
    fn admits(&mut self, bytes: u64) -> bool;
    /// Starts a request; it is given back later, by [`complete`]. Never [`Operation::GetId`].
    fn start(&mut self, pending: Pending, operation: Operation);
}

/// What the device counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    read_bytes: u64,
    written_bytes: u64,
    reads: u64,
    writes: u64,
    flushes: u64,
    discards: u64,
    write_zeroes: u64,
    ids: u64,
    errors: u64,
    malformed: u64,
    refused: u64,
    unsupported: u64,
}

impl Counts {
    /// By name.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::from([
            ("read_bytes", self.read_bytes),
            ("written_bytes", self.written_bytes),
            ("reads", self.reads),
            ("writes", self.writes),
            ("flushes", self.flushes),
            ("discards", self.discards),
            ("write_zeroes", self.write_zeroes),
            ("ids", self.ids),
            ("errors", self.errors),
            ("malformed", self.malformed),
            ("refused", self.refused),
            ("unsupported", self.unsupported),
        ])
    }

    fn refuse(&mut self, refused: &Refused) {
        tracing::debug!(reason = %refused.reason, "chain of a disk given back");
        *match refused.reason {
            Reason::ReadOnly => &mut self.refused,
            Reason::Flags | Reason::Kind => &mut self.unsupported,
            _ => &mut self.malformed,
        } += 1;
    }

    fn done(&mut self, pending: &Pending, answer: Answer) {
        if answer != Answer::Done {
            self.errors += 1;
            return;
        }
        match pending.class {
            Class::Read => {
                self.reads += 1;
                self.read_bytes += pending.bytes;
            }
            Class::Write => {
                self.writes += 1;
                self.written_bytes += pending.bytes;
            }
            Class::Flush => self.flushes += 1,
            Class::Discard => self.discards += 1,
            Class::WriteZeroes => self.write_zeroes += 1,
        }
    }
}

/// Takes requests until there is none, the executor has no room, the limits say so, or a full queue
/// of them was taken.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn take(
    queue: &mut Queue,
    memory: &Memory,
    disk: &Disk,
    counts: &mut Counts,
    executor: &mut impl Executor,
) -> Result<Outcome, QueueError> {
    queue::pass(queue, memory, |chain| {
        if !executor.has_room() {
            return Served::Left;
        }
        let head = chain.head_index();
        match request::parse(chain, memory, &disk.shape) {
            Ok(request) => serve(head, request, memory, disk, counts, executor),
            Err(refused) => {
                counts.refuse(&refused);
                let write = |status| answer(memory, status, refused.answer(), 0);
                Served::Used(refused.status.map_or(0, write))
            }
        }
    })
}

fn serve(
    head: u16,
    Request { operation, status }: Request,
    memory: &Memory,
    disk: &Disk,
    counts: &mut Counts,
    executor: &mut impl Executor,
) -> Served {
    let bytes = operation.bytes();
    if !executor.admits(bytes) {
        return Served::Left;
    }
    let class = match &operation {
        Operation::GetId { data } => {
            counts.ids += 1;
            let written = write_id(memory, data, &disk.id);
            return Served::Used(answer(memory, status, Answer::Done, written));
        }
        Operation::Flush if disk.disposable => {
            counts.flushes += 1;
            return Served::Used(answer(memory, status, Answer::Done, 0));
        }
        Operation::Read { .. } => Class::Read,
        Operation::Write { .. } => Class::Write,
        Operation::Flush => Class::Flush,
        Operation::Discard { .. } => Class::Discard,
        Operation::WriteZeroes { .. } => Class::WriteZeroes,
    };
    executor.start(Pending { head, status, class, bytes }, operation);
    Served::Taken
}

/// Gives requests back that were started, all with one question whether the guest wants an
/// interrupt.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn complete(
    queue: &mut Queue,
    memory: &Memory,
    counts: &mut Counts,
    done: impl Iterator<Item = (Pending, Answer)>,
) -> Result<Outcome, QueueError> {
    let mut outcome = Outcome::default();
    for (pending, result) in done {
        counts.done(&pending, result);
        let read = pending.class == Class::Read && result == Answer::Done;
        let data = if read { u32::try_from(pending.bytes).unwrap_or(0) } else { 0 };
        let used = answer(memory, pending.status, result, data);
        queue.add_used(memory, pending.head, used)?;
        outcome.progress = true;
    }
    if outcome.progress {
        outcome.notify = queue::wants_interrupt(queue, memory)?;
    }
    Ok(outcome)
}

/// Writes the status byte; the bytes written to the chain, `data` before it among them.
fn answer(memory: &Memory, status: GuestAddress, answer: Answer, data: u32) -> u32 {
    // It was memory when the request was read; only hot-plug memory may have gone since.
    let written = memory.write_obj(answer as u8, status);
    if written.is_ok() { data + 1 } else { 0 }
}

fn write_id(memory: &Memory, data: &[Segment], id: &[u8]) -> u32 {
    let mut written = 0;
    for segment in data {
        let part = (id.len() - written).min(segment.len as usize);
        if memory.write_slice(&id[written..written + part], segment.addr).is_err() {
            break;
        }
        written += part;
    }
    u32::try_from(written).unwrap_or(0)
}

/// For tests of other files.
#[cfg(test)]
pub(super) mod testing {
    use super::{Class, GuestAddress, Pending};

    /// A chain like any other.
    pub fn pending() -> Pending {
        Pending { head: 0, status: GuestAddress(0), class: Class::Read, bytes: 0 }
    }
}

#[cfg(test)]
mod tests;
