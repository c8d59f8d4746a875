//! What has to do with memory as such: the balloon, virtio-mem, and the kernel's file.

use std::fs::File;
use std::io::Write;

use nix::sys::memfd::{MFdFlags, memfd_create};
use virtio_queue::Queue;

use super::guest::{Subject, play};
use crate::Memory;
use crate::boot::{self, Images, Protocol, Vcpus};
use crate::virtio::balloon::statistics::StatisticsQueue;
use crate::virtio::mem::blocks::{BLOCK_LEN, Blocks, State};
use crate::virtio::queue::{Outcome, QueueError};
use crate::virtio::testing::{self, MEMORY_BYTES};
use crate::virtio::{balloon, mem};

/// The balloon.
pub fn balloon(bytes: &[u8]) {
    play(bytes, &mut Balloon::default());
}

/// virtio-mem.
pub fn mem(bytes: &[u8]) {
    let blocks = Blocks::new(MEMORY_BYTES as u64 / 2, MEMORY_BYTES as u64 / 2);
    play(bytes, &mut Mem { blocks, numbers: mem::core::Numbers::default() });
}

/// A kernel's file: it boots or is refused.
///
/// # Panics
/// When it would begin outside of memory.
pub fn kernel(bytes: &[u8]) {
    let memory = testing::memory();
    let Ok(mut file) = memfd_create("kernel", MFdFlags::MFD_CLOEXEC).map(File::from) else {
        return;
    };
    if file.write_all(bytes).is_err() {
        return;
    }
    let images = Images { kernel: &file, initramfs: None };
    for protocol in [None, Some(Protocol::Linux64), Some(Protocol::Pvh)] {
        let vcpus = Vcpus { online: 1, max: 1 };
        if let Ok(entry) = boot::load_by(protocol, &memory, &images, "", vcpus) {
            assert!(entry.address < MEMORY_BYTES as u64, "the entry is in memory");
        }
    }
}

#[derive(Default)]
struct Balloon {
    numbers: balloon::core::Numbers,
    statistics: StatisticsQueue,
    /// The host wants to know more.
    asked: bool,
}

impl Subject for Balloon {
    const QUEUES: &'static [u16] = &[128, 128, 16, 64];

    fn turn(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        let numbers = &mut self.numbers;
        let outcome = match index {
            0 => balloon::core::inflate(queue, memory, numbers),
            1 => balloon::core::deflate(queue, memory, numbers),
            2 => {
                if std::mem::take(&mut self.asked) {
                    self.statistics.give_back(queue, memory)?;
                }
                self.statistics.process(queue, memory, numbers)
            }
            _ => balloon::core::report(queue, memory, numbers),
        };
        assert_eq!(self.numbers.failed, 0, "only memory is given back");
        outcome
    }

    fn host(&mut self, _: u8) {
        self.asked = true;
    }
}

struct Mem {
    blocks: Blocks,
    numbers: mem::core::Numbers,
}

impl Subject for Mem {
    const QUEUES: &'static [u16] = &[64];

    fn turn(
        &mut self,
        _: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        let most = self.blocks.plugged_len().max(self.blocks.requested_len());
        let outcome = mem::core::process(queue, memory, &mut self.blocks, &mut self.numbers);
        assert!(self.blocks.plugged_len() <= most, "no more is plugged than the host wants");
        assert_eq!(self.numbers.failed, 0, "every block is memory");
        let beyond = usize::try_from(self.blocks.usable_len() / BLOCK_LEN).unwrap_or(usize::MAX);
        let beyond = beyond..self.blocks.all().end;
        assert_eq!(self.blocks.state(&beyond), State::Unplugged, "it is beyond what is usable");
        outcome
    }

    fn host(&mut self, what: u8) {
        let count = self.blocks.region_len() / BLOCK_LEN;
        self.blocks.request(u64::from(what) % (count + 1) * BLOCK_LEN);
        // As much is there as is needed, in whole chunks: here of two blocks.
        let needed = self.blocks.needed_len();
        self.blocks.set_usable_len(needed.next_multiple_of(2 * BLOCK_LEN));
    }
}
