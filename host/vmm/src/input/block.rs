//! The block device without a file: what its core starts is done as well, and as badly, as the
//! script says.

use std::sync::Arc;

use nix::errno::Errno;
use virtio_queue::Queue;
use vm_memory::{GuestMemory, Permissions};

use super::guest::{Subject, play};
use crate::Memory;
use crate::virtio::blk::core::{self, Counts, Disk, Executor, Pending};
use crate::virtio::blk::request::{Answer, MAX_DATA_LEN, Operation, Range, Segment, Shape};
use crate::virtio::blk::segments::Segments;
use crate::virtio::blk::task::{Step, Task};
use crate::virtio::{Outcome, QueueError};

/// Of the queue, and of requests in flight.
const QUEUE_SIZE: u16 = 16;
const SECTORS: u64 = 2048;
/// More steps than any request can need, if each but the first few moves half of what is left or 4
/// KiB.
const MAX_STEPS: u32 = 20_000;

/// A disk. The host's moves are: tasks finish, limits come and go, the disk becomes read-only.
pub fn block(bytes: &[u8]) {
    let shape = Shape { sectors: SECTORS, read_only: false };
    let disk = Disk { shape, id: [b'x'; 20], disposable: false };
    play(bytes, &mut Block { disk, counts: Counts::default(), jobs: Jobs::default(), finish: 0 });
}

struct Block {
    disk: Disk,
    counts: Counts,
    jobs: Jobs,
    finish: usize,
}

#[derive(Default)]
struct Jobs {
    started: Vec<(Pending, Operation)>,
    refuses: bool,
    /// Decides how steps go.
    luck: u32,
}

impl Executor for Jobs {
    fn has_room(&mut self) -> bool {
        self.started.len() < usize::from(QUEUE_SIZE)
    }

    fn admits(&mut self, bytes: u64) -> bool {
        assert!(bytes <= MAX_DATA_LEN.max(SECTORS * 512), "requests are bounded");
        !self.refuses
    }

    fn start(&mut self, pending: Pending, operation: Operation) {
        self.started.push((pending, operation));
    }
}

impl Subject for Block {
    const QUEUES: &'static [u16] = &[QUEUE_SIZE];

    fn turn(
        &mut self,
        _: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        let shared = Arc::new(memory.clone());
        let count = self.jobs.started.len().min(std::mem::take(&mut self.finish));
        let finished: Vec<_> = self.jobs.started.drain(..count).collect();
        let luck = &mut self.jobs.luck;
        let done = finished
            .into_iter()
            .map(|(pending, operation)| execute(&shared, pending, operation, luck));
        core::complete(queue, memory, &mut self.counts, done)?;
        let before = self.jobs.started.len();
        let outcome = core::take(queue, memory, &self.disk, &mut self.counts, &mut self.jobs)?;
        for (_, operation) in &self.jobs.started[before..] {
            assert!(!self.disk.shape.read_only || !writes(operation), "read-only is read-only");
        }
        Ok(outcome)
    }

    fn host(&mut self, what: u8) {
        self.finish = usize::from(what >> 3);
        self.jobs.luck = self.jobs.luck.rotate_left(5) ^ u32::from(what);
        self.jobs.refuses ^= what & 4 != 0;
        self.disk.shape.read_only ^= what & 2 != 0;
        self.disk.disposable = what & 1 != 0;
    }
}

fn writes(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Write { .. } | Operation::Discard { .. } | Operation::WriteZeroes { .. }
    )
}

/// All steps of a request, with results from `luck`.
fn execute(
    memory: &Arc<Memory>,
    pending: Pending,
    operation: Operation,
    luck: &mut u32,
) -> (Pending, Answer) {
    let mut task = match operation {
        Operation::Read { offset, data } => {
            check_place(offset, &data, memory);
            Task::read(pending, offset, segments(memory, &data))
        }
        Operation::Write { offset, data } => {
            check_place(offset, &data, memory);
            Task::write(pending, offset, segments(memory, &data))
        }
        Operation::Flush => Task::flush(pending),
        Operation::Discard { ranges } => {
            check_ranges(&ranges);
            Task::discard(pending, ranges)
        }
        Operation::WriteZeroes { ranges } => {
            check_ranges(&ranges);
            Task::write_zeroes(pending, ranges)
        }
        Operation::GetId { .. } => unreachable!("answered at once"),
    };
    if *luck & 0x40 != 0 {
        task = task.stable();
    }
    for _ in 0..MAX_STEPS {
        *luck = luck.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let result = result(&task.step(), *luck >> 16);
        if let Some(answer) = task.advance(result) {
            return (task.pending, answer);
        }
    }
    panic!("a task has no end");
}

fn result(step: &Step<'_>, luck: u32) -> Result<usize, Errno> {
    let (offset, len) = match step {
        Step::Read { offset, data } | Step::Write { offset, data } => {
            let len: usize = data.pieces().iter().map(|piece| piece.iov_len).sum();
            assert!(len > 0, "a step that moves nothing");
            (*offset, len)
        }
        Step::Clear { offset, len, .. } => (*offset, usize::try_from(*len).unwrap_or(usize::MAX)),
        Step::Sync => (0, 0),
    };
    assert!(offset + len as u64 <= SECTORS * 512, "beyond the disk");
    match (luck % 64, step) {
        (0, _) => Err(Errno::EIO),
        (1, _) => Err(Errno::EINTR),
        (2..30, Step::Clear { .. }) => Err(Errno::EOPNOTSUPP),
        (_, Step::Clear { .. } | Step::Sync) => Ok(0),
        (2, _) => Ok(0),
        (3..40, _) => Ok(len.min((len / 2).max(4096))),
        _ => Ok(len),
    }
}

fn segments(memory: &Arc<Memory>, data: &[Segment]) -> Segments {
    let Some(segments) = Segments::of_guest(memory, data) else { panic!("checked to be memory") };
    segments
}

fn check_place(offset: u64, data: &[Segment], memory: &Memory) {
    let len: u64 = data.iter().map(|segment| u64::from(segment.len)).sum();
    assert!(len > 0 && len.is_multiple_of(512) && offset.is_multiple_of(512));
    assert!(offset + len <= SECTORS * 512, "beyond the disk");
    for Segment { addr, len } in data {
        assert!(memory.check_range(*addr, *len as usize, Permissions::ReadWrite));
    }
}

fn check_ranges(ranges: &[Range]) {
    assert!(!ranges.is_empty() && ranges.len() <= 16);
    for Range { offset, len, .. } in ranges {
        assert!(*len > 0 && offset + len <= SECTORS * 512, "beyond the disk");
    }
}
