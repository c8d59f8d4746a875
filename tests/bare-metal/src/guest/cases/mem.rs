//! The memory device: virtio 1.2 §5.15. The host sets a size, we plug and unplug.

use super::Cases;
use crate::guest::clock;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Buffer, Device, Queue, Rings, kind, status};

pub const CASES: Cases = &[
    ("mem-plug", plug),
    ("mem-refusals", refusals),
    ("mem-limit", limit),
    ("mem-devices", devices),
];

/// Requests and answers. virtio 1.2 §5.15.6.
pub(super) const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
pub(super) const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;
pub(super) const ACK: u16 = 0;
const NACK: u16 = 1;
const ERROR: u16 = 3;
const PLUGGED: u16 = 0;
const UNPLUGGED: u16 = 1;
/// Fields. virtio 1.2 §5.15.4.
const BLOCK_SIZE: u64 = 0;
const ADDRESS: u64 = 16;
const REGION_SIZE: u64 = 24;
const USABLE_SIZE: u64 = 32;
const PLUGGED_SIZE: u64 = 40;
const REQUESTED_SIZE: u64 = 48;

/// A region and its driver.
pub(super) struct Mem {
    device: Device,
    queue: Queue,
    page: u64,
    block: u64,
    pub start: u64,
    size: u64,
}

impl Mem {
    #[track_caller]
    pub fn start() -> Self {
        let device = Device::find(kind::MEM);
        let features = device.negotiate(0);
        let queue = device.queue(0, 16, features);
        device.ready();
        let mem = Self {
            device,
            queue,
            page: memory::take(PAGE),
            block: device.config64(BLOCK_SIZE),
            start: device.config64(ADDRESS),
            size: device.config64(REGION_SIZE),
        };
        assert!(mem.block.is_power_of_two() && mem.start.is_multiple_of(mem.block));
        mem
    }

    /// A request for blocks from the region's start on, and its answer and state.
    #[track_caller]
    pub fn ask(&mut self, kind: u16, address: u64, blocks: u16) -> (u16, u16) {
        memory::fill(self.page, 0, 24);
        memory::write16(self.page, kind);
        memory::write64(self.page + 8, address);
        memory::write16(self.page + 16, blocks);
        memory::fill(self.page + 64, 0xff, 16);
        self.queue.ask(&[Buffer::out(self.page, 24), Buffer::fill(self.page + 64, 10)]);
        (memory::read16(self.page + 64), memory::read16(self.page + 72))
    }

    #[track_caller]
    pub fn wait_for_size(&self, wanted: impl Fn(u64) -> bool) -> u64 {
        self.wait_for(REQUESTED_SIZE, wanted)
    }

    #[track_caller]
    fn wait_for(&self, field: u64, wanted: impl Fn(u64) -> bool) -> u64 {
        let end = clock::after_ms(clock::PATIENCE_MS);
        loop {
            let size = self.device.config64(field);
            if wanted(size) {
                return size;
            }
            assert!(!end.is_past(), "the field at {field} stays at {size}");
        }
    }

    /// None of the region is there.
    #[track_caller]
    pub fn wait_for_nothing_usable(&self) {
        self.wait_for(USABLE_SIZE, |size| size == 0);
    }

    fn usable(&self) -> u64 {
        self.device.config64(USABLE_SIZE)
    }

    /// Writes a word of each block in a range of offsets, plugged or not.
    fn touch(&self, from: u64, to: u64) {
        for offset in (from..to).step_by(1 << 21) {
            memory::write64(self.start + offset, offset);
        }
    }

    /// There is no memory in a range of offsets: what is written is lost, and all bits read as one.
    #[track_caller]
    fn expect_nothing(&self, from: u64, to: u64) {
        self.touch(from, to);
        for offset in (from..to).step_by(1 << 21).chain([to - 8]) {
            assert_eq!(memory::read64(self.start + offset), u64::MAX, "at offset {offset:#x}");
        }
    }

    pub fn blocks(&self, size: u64) -> u16 {
        u16::try_from(size / self.block).expect("few blocks")
    }
}

fn plug() {
    let mut mem = Mem::start();
    say!("block {:#x} region {:#x}", mem.block, mem.size);
    let size = mem.wait_for_size(|size| size > 0);
    let blocks = mem.blocks(size);
    assert_eq!(mem.ask(STATE, mem.start, blocks), (ACK, UNPLUGGED));
    assert_eq!(mem.ask(PLUG, mem.start, blocks).0, ACK);
    assert_eq!(mem.device.config64(PLUGGED_SIZE), size);
    assert_eq!(mem.ask(STATE, mem.start, blocks), (ACK, PLUGGED));
    for offset in (0..size).step_by(2 << 20) {
        memory::pattern(mem.start + offset, 4096, offset);
    }
    for offset in (0..size).step_by(2 << 20) {
        memory::expect_pattern(mem.start + offset, 4096, offset);
    }
    // More than was asked for.
    if size < mem.size {
        assert_ne!(mem.ask(PLUG, mem.start + size, 1).0, ACK, "beyond the requested size");
    }
    say!("plugged {size}");
    mem.wait_for_size(|size| size == 0);
    assert_eq!(mem.ask(UNPLUG, mem.start, blocks).0, ACK);
    assert_eq!(mem.device.config64(PLUGGED_SIZE), 0);
    assert_eq!(mem.ask(STATE, mem.start, blocks), (ACK, UNPLUGGED));
    say!("unplugged");
}

/// Requests that the device does not grant, with nothing asked of it by the host.
fn refusals() {
    let mut mem = Mem::start();
    let (start, block, size) = (mem.start, mem.block, mem.size);
    for (kind, address, blocks, want) in [
        (PLUG, start, 1, NACK),
        (PLUG, start - block, 1, ERROR),
        (PLUG, start + size, 1, ERROR),
        (PLUG, start + 1, 1, ERROR),
        (PLUG, u64::MAX - block + 1, 2, ERROR),
        (PLUG, start, 0, ERROR),
        (UNPLUG, start, 1, ERROR),
        (UNPLUG, start, u16::MAX, ERROR),
        (UNPLUG, 0, 1, ERROR),
        (STATE, start + size, 1, ERROR),
        (STATE, start, 0, ERROR),
        (UNPLUG_ALL, 0, 0, ACK),
        (99, start, 1, ERROR),
    ] {
        let (answer, _) = mem.ask(kind, address, blocks);
        say!("request {kind} blocks {blocks}: answer {answer}");
        assert_ne!(answer, 0xffff, "no answer");
        assert_eq!(answer == ACK, want == ACK, "request {kind} at {address:#x}, {blocks} blocks");
    }
    // Chains that are no requests.
    let page = mem.page;
    for chain in [
        &[Buffer::out(page, 24)][..],
        &[Buffer::fill(page, 10)],
        &[Buffer::out(page, 7), Buffer::fill(page + 64, 10)],
        &[Buffer::out(page, 24), Buffer::fill(page + 64, 1)],
    ] {
        mem.queue.ask(chain);
    }
    assert_eq!(mem.ask(UNPLUG_ALL, 0, 0).0, ACK);
    assert_eq!(mem.device.config64(PLUGGED_SIZE), 0);
}

/// Takes all that it can of a region of two chunks while the host grants none, one and both of
/// them, and wants them back.
fn limit() {
    let mut mem = Mem::start();
    let (all, chunk, block) = (mem.size, mem.size / 2, mem.block);
    assert_eq!(mem.usable(), 0);
    mem.expect_nothing(0, all);
    say!("nothing granted");

    mem.wait_for_size(|size| size == block);
    assert_eq!(mem.usable(), chunk);
    assert_eq!(mem.ask(PLUG, mem.start + chunk, 1).0, NACK, "beyond what is usable");
    assert_eq!(mem.ask(PLUG, mem.start + chunk - block, 2).0, NACK, "beyond what is usable");
    assert_eq!(mem.ask(PLUG, mem.start, 1).0, ACK);
    assert_eq!(mem.ask(PLUG, mem.start + block, 1).0, NACK, "more than was asked for");
    mem.touch(0, chunk);
    mem.expect_nothing(chunk, all);
    say!("one chunk granted");

    mem.wait_for_size(|size| size == all);
    assert_eq!(mem.usable(), all);
    mem.touch(chunk, all);
    assert_eq!(mem.ask(PLUG, mem.start + all - block, 1).0, ACK);
    say!("all granted");

    mem.wait_for_size(|size| size == 0);
    assert_eq!(mem.ask(UNPLUG, mem.start, 1).0, ACK);
    assert_eq!(mem.usable(), all, "the last block is plugged");
    assert_eq!(memory::read64(mem.start + all - block), all - block);
    say!("last block kept");

    mem.wait_for_size(|size| size == block);
    assert_eq!(mem.ask(UNPLUG_ALL, 0, 0).0, ACK);
    mem.wait_for(USABLE_SIZE, |size| size == chunk);
    mem.expect_nothing(chunk, all);
    say!("second chunk taken");

    mem.wait_for_size(|size| size == 0);
    mem.wait_for_nothing_usable();
    mem.expect_nothing(0, all);
    say!("all taken");

    mem.wait_for_size(|size| size == chunk);
    assert_eq!(mem.ask(PLUG, mem.start, mem.blocks(chunk)).0, ACK);
    for offset in (0..chunk).step_by(2 << 20) {
        assert_eq!(memory::read64(mem.start + offset), 0, "new memory at offset {offset:#x}");
    }
    memory::pattern(mem.start, 4 * PAGE, 5);
    memory::expect_pattern(mem.start, 4 * PAGE, 5);
}

/// Devices use memory that was granted, and none that was not.
fn devices() {
    let mut mem = Mem::start();
    let device = Device::find(kind::ENTROPY);
    let features = device.negotiate(0);
    let mut queue = device.queue(0, 16, features);
    device.ready();
    let nowhere = mem.start + mem.size - PAGE;
    for buffer in [mem.start, nowhere] {
        assert_eq!(queue.ask(&[Buffer::fill(buffer, 4096)]), 0, "written where nothing is");
    }
    assert_eq!(queue.ask(&[Buffer::fill(mem.page, 64)]), 64);
    say!("nothing granted");

    let size = mem.wait_for_size(|size| size > 0);
    assert_eq!(mem.ask(PLUG, mem.start, mem.blocks(size)).0, ACK);
    assert_eq!(queue.ask(&[Buffer::fill(mem.start, 4096)]), 4096);
    let end = mem.start + mem.usable();
    assert_eq!(queue.ask(&[Buffer::fill(end - 64, 4096)]), 0, "written beyond what is usable");
    // Rings in memory that goes.
    let at = mem.start + PAGE;
    let rings = Rings { size: 8, descriptors: at, available: at + 1024, used: at + 2048 };
    let features = device.negotiate(0);
    device.set_queue(0, &rings);
    let mut queue = Queue::new(device, 0, rings, features);
    device.ready();
    assert_eq!(queue.ask(&[Buffer::fill(mem.page, 64)]), 64);
    say!("rings moved");

    mem.wait_for_size(|size| size == 0);
    assert_eq!(mem.ask(UNPLUG_ALL, 0, 0).0, ACK);
    mem.wait_for_nothing_usable();
    device.notify(0);
    let end = clock::after_ms(clock::PATIENCE_MS);
    while device.status() & status::NEEDS_RESET == 0 {
        assert!(!end.is_past(), "a device whose rings are gone says nothing");
    }
    say!("taken");

    // Another that never was there.
    mem.wait_for_size(|size| size > 0);
    device.negotiate(0);
    let at = mem.start + mem.usable();
    device.set_queue(0, &Rings { size: 8, descriptors: at, available: at + 1024, used: at + 2048 });
    device.add_status(status::DRIVER_OK);
    assert_ne!(device.status() & status::NEEDS_RESET, 0, "rings where nothing is");
}
