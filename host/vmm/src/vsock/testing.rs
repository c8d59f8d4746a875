//! A driver's side of the queues, for tests: honest where asked, hostile where asked.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::device::{self};
use super::muxer::Muxer;
use super::packet::{HEADER_LEN, Header, Op, TYPE_STREAM};
use super::{Config, Limits};
use crate::Memory;
use crate::virtio::{Outcome, QueueError};

pub const MEMORY_BYTES: usize = 4 << 20;
pub const QUEUE_SIZE: u16 = 16;
/// `VIRTQ_DESC_F_NEXT`, virtio 1.2 §2.7.5.
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`, virtio 1.2 §2.7.5.
pub const WRITE: u16 = 2;
/// Where the buffers of a queue begin; one per descriptor.
const BUFFERS: u64 = 0x10_0000;
const BUFFER_STRIDE: u64 = 0x1_1000;

pub const CONFIG: Config = Config {
    guest_cid: 3,
    host_cid: 2,
    limits: Limits {
        connections: 8,
        backlog: 4,
        large_connections: 2,
        buffer_bytes: 8192,
        small_buffer_bytes: 1024,
        pending_resets: 4,
    },
};

/// The rings of one queue as a driver writes them.
pub struct DriverQueue {
    base: u64,
    buffers: u64,
    next_descriptor: u16,
    avail_idx: u16,
    used_idx: u16,
}

impl DriverQueue {
    pub fn new(index: u64) -> Self {
        Self {
            base: 0x1000 + index * 0x4000,
            buffers: BUFFERS + index * BUFFER_STRIDE * u64::from(QUEUE_SIZE),
            next_descriptor: 0,
            avail_idx: 0,
            used_idx: 0,
        }
    }

    pub fn descriptors(&self) -> u64 {
        self.base
    }

    pub fn available(&self) -> u64 {
        self.base + 0x1000
    }

    pub fn used(&self) -> u64 {
        self.base + 0x2000
    }

    /// The index of the next chain that is made available.
    pub fn available_index(&self) -> u16 {
        self.avail_idx
    }

    /// The descriptor that [`Self::add_buffer`] takes next.
    pub fn next_descriptor(&self) -> u16 {
        self.next_descriptor
    }

    /// The device's view of the queue.
    pub fn device_queue(&self) -> Queue {
        let mut queue = Queue::new(QUEUE_SIZE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.descriptors())).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.available())).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.used())).unwrap();
        queue.set_ready(true);
        queue
    }

    /// The address of the buffer that belongs to a descriptor.
    pub fn buffer(&self, index: u16) -> u64 {
        self.buffers + u64::from(index) * BUFFER_STRIDE
    }

    pub fn write_descriptor(
        &self,
        memory: &Memory,
        index: u16,
        (addr, len, flags, next): (u64, u32, u16, u16),
    ) {
        let at = GuestAddress(self.descriptors() + u64::from(index) * 16);
        memory.write_obj(addr, at).unwrap();
        memory.write_obj(len, GuestAddress(at.0 + 8)).unwrap();
        memory.write_obj(flags, GuestAddress(at.0 + 12)).unwrap();
        memory.write_obj(next, GuestAddress(at.0 + 14)).unwrap();
    }

    /// Makes a chain available, whatever its head is.
    pub fn publish(&mut self, memory: &Memory, head: u16) {
        let slot = self.available() + 4 + u64::from(self.avail_idx % QUEUE_SIZE) * 2;
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.set_avail_idx(memory, self.avail_idx);
    }

    pub fn set_avail_idx(&self, memory: &Memory, index: u16) {
        memory.write_obj(index, GuestAddress(self.available() + 2)).unwrap();
    }

    /// Adds a chain of one descriptor with a buffer of its own.
    pub fn add_buffer(&mut self, memory: &Memory, len: u32, flags: u16) -> u16 {
        let index = self.next_descriptor;
        self.next_descriptor = (index + 1) % QUEUE_SIZE;
        self.write_descriptor(memory, index, (self.buffer(index), len, flags, 0));
        self.publish(memory, index);
        index
    }

    /// Chains that the device used since the last call: head and length.
    pub fn take_used(&mut self, memory: &Memory) -> Vec<(u32, u32)> {
        let index: u16 = memory.read_obj(GuestAddress(self.used() + 2)).unwrap();
        let mut used = Vec::new();
        while self.used_idx != index {
            let slot = self.used() + 4 + u64::from(self.used_idx % QUEUE_SIZE) * 8;
            let head = memory.read_obj(GuestAddress(slot)).unwrap();
            used.push((head, memory.read_obj(GuestAddress(slot + 4)).unwrap()));
            self.used_idx = self.used_idx.wrapping_add(1);
        }
        used
    }
}

/// A device with its driver.
pub struct Bench {
    pub memory: Memory,
    pub muxer: Muxer,
    pub rx: DriverQueue,
    pub tx: DriverQueue,
    pub rx_queue: Queue,
    pub tx_queue: Queue,
}

impl Bench {
    pub fn new() -> Self {
        let (rx, tx) = (DriverQueue::new(0), DriverQueue::new(1));
        Self {
            memory: Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap(),
            muxer: Muxer::new(CONFIG),
            rx_queue: rx.device_queue(),
            tx_queue: tx.device_queue(),
            rx,
            tx,
        }
    }

    pub fn process_tx(&mut self) -> Result<Outcome, QueueError> {
        device::process_tx(&mut self.muxer, &self.memory, &mut self.tx_queue)
    }

    pub fn process_rx(&mut self) -> Result<Outcome, QueueError> {
        device::process_rx(&mut self.muxer, &self.memory, &mut self.rx_queue)
    }

    /// The guest sends a packet whose header says what it likes.
    pub fn send_as(&mut self, header: &Header, payload: &[u8]) {
        let bytes = [&header.to_bytes()[..], payload].concat();
        let len = u32::try_from(bytes.len()).unwrap();
        let index = self.tx.add_buffer(&self.memory, len, 0);
        self.memory.write_slice(&bytes, GuestAddress(self.tx.buffer(index))).unwrap();
        self.process_tx().unwrap();
        self.tx.take_used(&self.memory);
    }

    /// The guest gives a buffer of `len` bytes and gets what the device has, if it has.
    pub fn receive_into(&mut self, len: u32) -> Option<(Header, Vec<u8>)> {
        let index = self.rx.add_buffer(&self.memory, len, WRITE);
        self.process_rx().unwrap();
        let used = self.rx.take_used(&self.memory);
        let Some(&(head, written)) = used.first() else {
            self.take_back();
            return None;
        };
        assert_eq!(head, u32::from(index));
        let mut bytes = vec![0; written as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(self.rx.buffer(index))).unwrap();
        let header = Header::read_from(&mut bytes.as_slice()).ok()?;
        Some((header, bytes.split_off(HEADER_LEN)))
    }

    /// Undoes the last buffer that the device left alone.
    fn take_back(&mut self) {
        self.rx.avail_idx = self.rx.avail_idx.wrapping_sub(1);
        self.rx.next_descriptor = (self.rx.next_descriptor + QUEUE_SIZE - 1) % QUEUE_SIZE;
        self.rx.set_avail_idx(&self.memory, self.rx.avail_idx);
    }

    pub fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        self.receive_into(4096)
    }

    /// The operations of all packets that the device has.
    pub fn receive_ops(&mut self) -> Vec<Op> {
        std::iter::from_fn(|| self.receive())
            .map(|(header, _)| Op::from_wire(header.op).unwrap())
            .collect()
    }
}

/// A header from port `guest_port` of the guest to `host_port`, with credit to spare.
pub fn header(op: Op, guest_port: u32, host_port: u32) -> Header {
    Header {
        src_cid: CONFIG.guest_cid,
        dst_cid: CONFIG.host_cid,
        src_port: guest_port,
        dst_port: host_port,
        kind: TYPE_STREAM,
        op: op.to_wire(),
        buf_alloc: 1 << 18,
        ..Header::default()
    }
}

/// A header with payload.
pub fn data(guest_port: u32, host_port: u32, len: usize) -> Header {
    Header { len: u32::try_from(len).unwrap(), ..header(Op::Data, guest_port, host_port) }
}
