//! A driver's side of the devices, honest where asked and hostile where asked, on plain memory and
//! without KVM: for unit tests of devices and for fuzzers.
//!
//! A core is driven with a [`DriverQueue`] alone:
//!
//! ```ignore
//! let memory = testing::memory();
//! let mut driver = DriverQueue::new(&memory, 0, 16);
//! let mut queue = driver.device_queue();
//! let (request, answer) = (driver.readable(b"request"), driver.writable(64));
//! let head = driver.add(&[request, answer]);
//! core::process(&mut queue, &memory).unwrap();
//! assert_eq!(driver.take_used(), [(u32::from(head), 64)]);
//! assert_eq!(driver.read(answer), [0; 64]);
//! ```
//!
//! A whole device with a [`Driver`], through the registers and the event loop:
//!
//! ```ignore
//! let mut driver = Driver::new(Box::new(device));
//! driver.start(features, 16); // negotiates, sets up all queues, DRIVER_OK
//! let buffer = driver.queue(0).writable(64);
//! driver.queue(0).add(&[buffer]);
//! driver.kick(0);
//! driver.run(); // until no device has anything to do
//! assert_eq!(driver.queue(0).take_used().len(), 1);
//! assert!(driver.take_interrupt());
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "what fails here is the test, or its own mistake"
)]

pub mod probe;

use std::fs::File;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use virtio_queue::{Queue, QueueT};
use vm_memory::{ByteValued, Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::Device;
use super::mmio::{Transport, status};
use super::queue::QueueConfig;
use crate::Memory;
use crate::bus::Registers;
use crate::event_loop::EventLoop;

/// Guest memory of a test, from address 0.
pub const MEMORY_BYTES: usize = 16 << 20;
/// Of each queue, for its rings and buffers; the first one's begins here, too.
pub const QUEUE_STRIDE: u64 = 1 << 20;
/// `VIRTQ_DESC_F_NEXT`, virtio 1.2 §2.7.5.
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`, virtio 1.2 §2.7.5.
pub const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`, virtio 1.2 §2.7.5.
pub const INDIRECT: u16 = 4;
/// `VIRTIO_F_VERSION_1`, `VIRTIO_F_INDIRECT_DESC` and `VIRTIO_F_EVENT_IDX`, virtio 1.2 §6.
pub const VERSION_1: u64 = 1 << 32;
/// See [`VERSION_1`].
pub const INDIRECT_DESC: u64 = 1 << 28;
/// See [`VERSION_1`].
pub const EVENT_IDX: u64 = 1 << 29;

/// Where the rings of a queue end and its buffers begin, from the queue's base.
const BUFFERS: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x8000;
const USED: u64 = 0xa000;
/// The most descriptors that the rings have room for.
const MAX_SIZE: u16 = 2048;

/// [`MEMORY_BYTES`] of zeroes, in a sealed memfd as a guest's are.
#[must_use]
pub fn memory() -> Memory {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let file = File::from(memfd_create("guest", flags).unwrap());
    file.set_len(MEMORY_BYTES as u64).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
    let region = (GuestAddress(0), MEMORY_BYTES, Some(FileOffset::new(file, 0)));
    GuestMemoryMmap::from_ranges_with_files([region]).unwrap().into()
}

/// A piece of guest memory that a descriptor may point to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// For the device to write to.
    pub writable: bool,
}

/// `struct virtq_desc`, virtio 1.2 §2.7.5.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// The next one of the chain.
    pub next: u16,
}

impl Descriptor {
    fn to_bytes(self) -> [u8; 16] {
        let words = u128::from(self.addr)
            | u128::from(self.len) << 64
            | u128::from(self.flags) << 96
            | u128::from(self.next) << 112;
        words.to_le_bytes()
    }
}

/// The rings of one queue as a driver writes them. Descriptors and buffers are taken in turn and
/// never freed: whoever has more in flight than there are overwrites its own.
#[derive(Debug)]
pub struct DriverQueue {
    memory: Memory,
    size: u16,
    base: u64,
    next_descriptor: u16,
    next_buffer: u64,
    avail_idx: u16,
    used_idx: u16,
}

impl DriverQueue {
    /// Rings of `size` descriptors, a power of two up to 2048. `index`, up to 14, says where in
    /// memory.
    #[must_use]
    pub fn new(memory: &Memory, index: usize, size: u16) -> Self {
        assert!(index < 15 && size <= MAX_SIZE);
        Self {
            memory: memory.clone(),
            size,
            base: QUEUE_STRIDE * (index as u64 + 1),
            next_descriptor: 0,
            next_buffer: BUFFERS,
            avail_idx: 0,
            used_idx: 0,
        }
    }

    /// As the driver says it to a transport.
    #[must_use]
    pub fn config(&self) -> QueueConfig {
        QueueConfig {
            max_size: self.size,
            size: u32::from(self.size),
            ready: true,
            descriptors: self.base,
            available: self.base + AVAILABLE,
            used: self.base + USED,
        }
    }

    /// The device's view of the queue, without event indexes.
    #[must_use]
    pub fn device_queue(&self) -> Queue {
        self.config().activate(&self.memory, false).unwrap().unwrap()
    }

    /// As if so many chains had come and gone; for wrap-around. The device's view is to be told.
    pub fn skip_to(&mut self, index: u16, queue: &mut Queue) {
        self.avail_idx = index;
        self.used_idx = index;
        self.set_avail_idx(index);
        self.store(USED + 2, index);
        queue.set_next_avail(index);
        queue.set_next_used(index);
    }

    /// A fresh piece of memory that holds `bytes`.
    pub fn readable(&mut self, bytes: &[u8]) -> Buffer {
        let buffer = Buffer { writable: false, ..self.writable(bytes.len()) };
        self.memory.write_slice(bytes, GuestAddress(buffer.addr)).unwrap();
        buffer
    }

    /// A fresh piece of memory for the device to write to, up to 900 KiB.
    pub fn writable(&mut self, len: usize) -> Buffer {
        let room = (len as u64).next_multiple_of(16);
        assert!(BUFFERS + room <= QUEUE_STRIDE);
        if self.next_buffer + room > QUEUE_STRIDE {
            self.next_buffer = BUFFERS;
        }
        let addr = self.base + self.next_buffer;
        self.next_buffer += room;
        Buffer { addr, len: u32::try_from(len).unwrap(), writable: true }
    }

    /// What a piece of memory holds.
    #[must_use]
    pub fn read(&self, buffer: Buffer) -> Vec<u8> {
        let mut bytes = vec![0; buffer.len as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(buffer.addr)).unwrap();
        bytes
    }

    /// Writes a chain of these buffers and makes it available; returns its head.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.write_chain(buffers);
        self.publish(head);
        head
    }

    /// The same in a table of its own; the chain takes one descriptor of the queue.
    pub fn add_indirect(&mut self, buffers: &[Buffer]) -> u16 {
        let last = buffers.len() - 1;
        let table: Vec<u8> = (buffers.iter().enumerate())
            .flat_map(|(at, buffer)| {
                let next = u16::try_from(at + 1).unwrap();
                descriptor(buffer, (at < last).then_some(next)).to_bytes()
            })
            .collect();
        let table = self.readable(&table);
        let head = self.take_descriptor();
        let Buffer { addr, len, .. } = table;
        self.write_descriptor(head, Descriptor { addr, len, flags: INDIRECT, next: 0 });
        self.publish(head);
        head
    }

    /// Writes a chain and does not make it available; returns its head.
    pub fn write_chain(&mut self, buffers: &[Buffer]) -> u16 {
        let indexes: Vec<u16> = buffers.iter().map(|_| self.take_descriptor()).collect();
        for (at, buffer) in buffers.iter().enumerate() {
            self.write_descriptor(indexes[at], descriptor(buffer, indexes.get(at + 1).copied()));
        }
        indexes[0]
    }

    fn take_descriptor(&mut self) -> u16 {
        let index = self.next_descriptor;
        self.next_descriptor = (index + 1) % self.size;
        index
    }

    /// Writes one descriptor, whatever it says.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        let at = self.base + u64::from(index) * 16;
        self.memory.write_slice(&descriptor.to_bytes(), GuestAddress(at)).unwrap();
    }

    /// Makes a chain available, whatever its head is.
    pub fn publish(&mut self, head: u16) {
        self.store(AVAILABLE + 4 + u64::from(self.avail_idx % self.size) * 2, head);
        self.set_avail_idx(self.avail_idx.wrapping_add(1));
    }

    /// Says how many chains were made available since the queue began, true or not.
    pub fn set_avail_idx(&mut self, index: u16) {
        self.avail_idx = index;
        self.store(AVAILABLE + 2, index);
    }

    /// How many chains were made available, by the queue's own count.
    #[must_use]
    pub fn avail_idx(&self) -> u16 {
        self.avail_idx
    }

    /// The available ring's flags: 1 wants no interrupts. virtio 1.2 §2.7.6.
    pub fn set_avail_flags(&self, flags: u16) {
        self.store(AVAILABLE, flags);
    }

    /// With event indexes: an interrupt is wanted when the chain of this number was used. virtio
    /// 1.2 §2.7.7.
    pub fn set_used_event(&self, index: u16) {
        self.store(AVAILABLE + 4 + u64::from(self.size) * 2, index);
    }

    /// With event indexes: the device wants a kick when the chain of this number was added. virtio
    /// 1.2 §2.7.10.
    #[must_use]
    pub fn avail_event(&self) -> u16 {
        self.load(USED + 4 + u64::from(self.size) * 8)
    }

    /// Chains that the device gave back since the last call: head and length.
    pub fn take_used(&mut self) -> Vec<(u32, u32)> {
        let index: u16 = self.load(USED + 2);
        let mut used = Vec::new();
        while self.used_idx != index {
            let slot = USED + 4 + u64::from(self.used_idx % self.size) * 8;
            used.push((self.load(slot), self.load(slot + 4)));
            self.used_idx = self.used_idx.wrapping_add(1);
        }
        used
    }

    fn store<T: ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(self.base + at)).unwrap();
    }

    fn load<T: ByteValued>(&self, at: u64) -> T {
        self.memory.read_obj(GuestAddress(self.base + at)).unwrap()
    }
}

fn descriptor(buffer: &Buffer, next: Option<u16>) -> Descriptor {
    let write = if buffer.writable { WRITE } else { 0 };
    let flags = write | if next.is_some() { NEXT } else { 0 };
    Descriptor { addr: buffer.addr, len: buffer.len, flags, next: next.unwrap_or(0) }
}

/// A device behind its registers, with its driver. See the module.
pub struct Driver {
    /// The device's side.
    pub transport: Arc<Transport>,
    /// Of the guest.
    pub memory: Memory,
    events: EventLoop,
    queues: Vec<DriverQueue>,
}

impl Driver {
    /// A device that nobody talked to.
    #[must_use]
    pub fn new(device: Box<dyn Device>) -> Self {
        Self::with_memory(device, memory())
    }

    /// The same with other memory, of which the first [`MEMORY_BYTES`] are for queues and buffers.
    #[must_use]
    pub fn with_memory(device: Box<dyn Device>, memory: Memory) -> Self {
        let transport = Arc::new(Transport::new(device, memory.clone()).unwrap());
        let events = EventLoop::new(std::slice::from_ref(&transport)).unwrap();
        Self { transport, memory, events, queues: Vec::new() }
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        let mut data = [0xee; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Reads the configuration space.
    #[must_use]
    pub fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0xee; N];
        self.transport.read(0x100 + offset, &mut data);
        data
    }

    /// The status register.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.read(0x070)
    }

    /// The features that are offered.
    #[must_use]
    pub fn offered(&self) -> u64 {
        let half = |select| {
            self.write(0x014, select);
            u64::from(self.read(0x010))
        };
        half(0) | half(1) << 32
    }

    /// Resets the device, and goes as far as FEATURES_OK with these features and VERSION_1. True if
    /// the device agrees.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.write(0x070, 0);
        self.queues.clear();
        self.write(0x070, status::ACKNOWLEDGE);
        self.write(0x070, status::ACKNOWLEDGE | status::DRIVER);
        let words = (features | VERSION_1).to_le_bytes();
        for (select, word) in (0..).zip(words.chunks(4)) {
            self.write(0x024, select);
            self.write(0x020, u32::from_le_bytes(word.try_into().unwrap()));
        }
        self.write(0x070, self.status() | status::FEATURES_OK);
        self.status() & status::FEATURES_OK != 0
    }

    /// Tells the device of a queue as it says it is.
    pub fn set_up_queue(&self, index: usize, config: &QueueConfig) {
        self.write(0x030, u32::try_from(index).unwrap());
        self.write(0x038, config.size);
        let rings = [config.descriptors, config.available, config.used];
        for (offset, address) in [0x080, 0x090, 0x0a0].into_iter().zip(rings) {
            let bytes = address.to_le_bytes();
            self.write(offset, u32::from_le_bytes(bytes[..4].try_into().unwrap()));
            self.write(offset + 4, u32::from_le_bytes(bytes[4..].try_into().unwrap()));
        }
        self.write(0x044, u32::from(config.ready));
    }

    /// DRIVER_OK. True if the device works.
    pub fn driver_ok(&self) -> bool {
        self.write(0x070, self.status() | status::DRIVER_OK);
        self.status() & status::DEVICE_NEEDS_RESET == 0
    }

    /// All of it, from the reset to DRIVER_OK, with queues of `size` or what the device offers, if
    /// that is less. Of a device that was started, starts it anew: the rings are empty.
    pub fn start(&mut self, features: u64, size: u16) {
        assert!(self.negotiate(features), "features {features:#x} refused");
        for index in 0..self.transport.kicks().len() {
            self.write(0x030, u32::try_from(index).unwrap());
            let offered = u16::try_from(self.read(0x034)).unwrap();
            let queue = DriverQueue::new(&self.memory, index, size.min(offered));
            let rings = vec![0; usize::try_from(BUFFERS).unwrap()];
            self.memory.write_slice(&rings, GuestAddress(queue.base)).unwrap();
            self.set_up_queue(index, &queue.config());
            self.queues.push(queue);
        }
        assert!(self.driver_ok(), "not activated");
    }

    /// A queue that [`Self::start`] set up.
    pub fn queue(&mut self, index: usize) -> &mut DriverQueue {
        &mut self.queues[index]
    }

    /// Tells the device that a queue has more.
    pub fn kick(&self, index: usize) {
        self.write(0x050, u32::try_from(index).unwrap());
    }

    /// Gives all turns until nobody wants one. Fails for a device that always wants one.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if self.events.dispatch().unwrap() == 0 {
                return;
            }
        }
        panic!("the device is never done");
    }

    /// Waits up to 10 seconds for something to happen, then [`Self::run`]s. False if nothing did.
    pub fn wait(&mut self) -> bool {
        use nix::poll::{PollFd, PollFlags, poll};
        use std::os::fd::AsFd;
        let mut descriptors = [PollFd::new(self.events.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut descriptors, 10_000u16).unwrap() > 0;
        self.run();
        ready
    }

    /// Whether the device told of used buffers since the last call; acknowledges it.
    pub fn take_interrupt(&self) -> bool {
        let pending = self.read(0x060);
        self.write(0x064, pending & 1);
        pending & 1 != 0
    }

    /// Whether the device told of a change of its configuration since the last call; acknowledges
    /// it.
    pub fn take_config_interrupt(&self) -> bool {
        let pending = self.read(0x060);
        self.write(0x064, pending & 2);
        pending & 2 != 0
    }

    /// A number that the device or the transport counted.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.transport.counters().get(name).copied().unwrap_or_default()
    }
}
