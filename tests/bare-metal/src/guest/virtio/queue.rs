//! A split virtqueue. virtio 1.2 §2.7.

use super::device::Device;
use super::feature::EVENT_INDEX;
use crate::guest::interrupts::Line;
use crate::guest::{clock, memory};

/// Flags of a descriptor. virtio 1.2 §2.7.5.
pub const FLAG_NEXT: u16 = 1;
/// See [`FLAG_NEXT`].
pub const FLAG_WRITE: u16 = 2;
/// See [`FLAG_NEXT`].
pub const FLAG_INDIRECT: u16 = 4;
const DESCRIPTOR_LEN: u64 = 16;
/// VIRTQ_USED_F_NO_NOTIFY
const NO_NOTIFY: u16 = 1;
const INTERRUPT_MS: u32 = 60_000;

/// A part of a chain.
#[derive(Clone, Copy)]
pub struct Buffer {
    /// Where.
    pub address: u64,
    /// How long.
    pub len: u32,
    /// Whether the device writes it.
    pub write: bool,
}

impl Buffer {
    /// The device reads it.
    pub fn out(address: u64, len: u32) -> Self {
        Self { address, len, write: false }
    }

    /// The device writes it.
    pub fn fill(address: u64, len: u32) -> Self {
        Self { address, len, write: true }
    }
}

/// Where a queue is.
#[derive(Clone, Copy)]
pub struct Rings {
    /// Descriptors.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: u64,
    /// The driver's ring.
    pub available: u64,
    /// The device's ring.
    pub used: u64,
}

impl Rings {
    /// Rings in memory of their own.
    pub fn new(size: u16) -> Self {
        let count = u64::from(size);
        Self {
            size,
            descriptors: memory::take(count * DESCRIPTOR_LEN),
            available: memory::take(6 + 2 * count),
            used: memory::take(6 + 8 * count),
        }
    }

    /// Address of a descriptor.
    pub fn descriptor(&self, index: u16) -> u64 {
        self.descriptors + u64::from(index) * DESCRIPTOR_LEN
    }

    /// Makes chains available, as they are: `heads` from the index `from` on.
    pub fn offer(&self, from: u16, heads: &[u16]) {
        let mut index = from;
        for head in heads {
            memory::write16(self.available + 4 + 2 * u64::from(index % self.size), *head);
            index = index.wrapping_add(1);
        }
        memory::barrier();
        memory::write16(self.available + 2, index);
        memory::barrier();
    }

    /// How many chains the device used, modulo 65536.
    pub fn used_index(&self) -> u16 {
        memory::read16(self.used + 2)
    }
}

/// Writes a descriptor.
pub fn write_descriptor(at: u64, address: u64, len: u32, flags: u16, next: u16) {
    memory::write64(at, address);
    memory::write32(at + 8, len);
    memory::write16(at + 12, flags);
    memory::write16(at + 14, next);
}

/// A queue and its driver.
pub struct Queue {
    device: Device,
    index: u16,
    /// Where it is.
    pub rings: Rings,
    event_index: bool,
    free_head: u16,
    free: u16,
    offered: u16,
    told: u16,
    seen: u16,
    line: Option<Line>,
    interrupts: u32,
}

impl Queue {
    /// Of rings that are empty.
    pub fn new(device: Device, index: u16, rings: Rings, features: u64) -> Self {
        for descriptor in 0..rings.size {
            write_descriptor(rings.descriptor(descriptor), 0, 0, 0, descriptor.wrapping_add(1));
        }
        Self {
            device,
            index,
            rings,
            event_index: features & EVENT_INDEX != 0,
            free_head: 0,
            free: rings.size,
            offered: 0,
            told: 0,
            seen: 0,
            line: None,
            interrupts: 0,
        }
    }

    /// Waits by interrupts from now on.
    pub fn use_interrupts(&mut self) -> Line {
        let line = self.device.line();
        self.line = Some(line);
        self.want_interrupt_at(self.seen);
        line
    }

    /// Descriptors that are free.
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Adds a chain; the device does not know of it yet. Gives its head.
    #[track_caller]
    pub fn add(&mut self, chain: &[Buffer]) -> u16 {
        let len = u16::try_from(chain.len()).expect("a chain is shorter than a queue");
        assert!(len > 0 && len <= self.free, "a chain of {len}, {} are free", self.free);
        let head = self.free_head;
        let mut index = head;
        for (nth, buffer) in chain.iter().enumerate() {
            let at = self.rings.descriptor(index);
            let next = memory::read16(at + 14);
            let more = if nth + 1 < chain.len() { FLAG_NEXT } else { 0 };
            write_descriptor(at, buffer.address, buffer.len, more | direction(buffer), next);
            index = next;
        }
        self.free_head = index;
        self.free -= len;
        self.offer(head);
        head
    }

    /// Adds a chain by a table of its own at `table`.
    #[track_caller]
    pub fn add_indirect(&mut self, chain: &[Buffer], table: u64) -> u16 {
        let mut at = table;
        for (nth, buffer) in chain.iter().enumerate() {
            let next = u16::try_from(nth + 1).expect("a table has at most 65535");
            let more = if nth + 1 < chain.len() { FLAG_NEXT } else { 0 };
            write_descriptor(at, buffer.address, buffer.len, more | direction(buffer), next);
            at += DESCRIPTOR_LEN;
        }
        let len = u32::try_from(at - table).expect("a table is shorter than 4 GiB");
        self.add_raw(table, len, FLAG_INDIRECT)
    }

    /// Adds a chain of one descriptor, which may be anything.
    #[track_caller]
    pub fn add_raw(&mut self, address: u64, len: u32, flags: u16) -> u16 {
        assert!(self.free > 0, "the queue is full");
        let head = self.free_head;
        let at = self.rings.descriptor(head);
        let next = memory::read16(at + 14);
        write_descriptor(at, address, len, flags, next);
        self.free_head = next;
        self.free -= 1;
        self.offer(head);
        head
    }

    fn offer(&mut self, head: u16) {
        self.rings.offer(self.offered, &[head]);
        self.offered = self.offered.wrapping_add(1);
    }

    /// Tells the device of what was added, if it wants to know.
    pub fn kick(&mut self) {
        memory::barrier();
        let wanted = if self.event_index {
            // virtio 1.2 §2.7.10: from the last kick until now, did we pass its index?
            let event = memory::read16(self.rings.used + 4 + 8 * u64::from(self.rings.size));
            let behind = self.offered.wrapping_sub(event).wrapping_sub(1);
            behind < self.offered.wrapping_sub(self.told)
        } else {
            memory::read16(self.rings.used) & NO_NOTIFY == 0
        };
        self.told = self.offered;
        if wanted {
            self.device.notify(self.index.into());
        }
    }

    /// Wants an interrupt once the chain of this index was used. Without the event index, nothing:
    /// each is told of then.
    pub fn want_interrupt_at(&self, index: u16) {
        if !self.event_index {
            return;
        }
        memory::write16(self.rings.available + 4 + 2 * u64::from(self.rings.size), index);
        memory::barrier();
    }

    /// A chain that the device used, with its length, if there is one.
    #[track_caller]
    pub fn pop(&mut self) -> Option<(u16, u32)> {
        if self.rings.used_index() == self.seen {
            return None;
        }
        memory::barrier();
        let slot = self.rings.used + 4 + 8 * u64::from(self.seen % self.rings.size);
        let (id, len) = (memory::read32(slot), memory::read32(slot + 4));
        let head = u16::try_from(id).ok().filter(|head| *head < self.rings.size);
        let head = head.unwrap_or_else(|| panic!("the device used a chain {id}"));
        self.seen = self.seen.wrapping_add(1);
        self.release(head);
        Some((head, len))
    }

    fn release(&mut self, head: u16) {
        let mut index = head;
        let mut count = 1;
        while memory::read16(self.rings.descriptor(index) + 12) & FLAG_NEXT != 0 {
            index = memory::read16(self.rings.descriptor(index) + 14);
            count += 1;
        }
        memory::write16(self.rings.descriptor(index) + 14, self.free_head);
        self.free_head = head;
        self.free += count;
    }

    /// Waits for the next used chain.
    #[track_caller]
    pub fn wait(&mut self) -> (u16, u32) {
        match self.wait_ms(clock::PATIENCE_MS) {
            Some(used) => used,
            None => panic!("nothing is used, status {:#x}", self.device.status()),
        }
    }

    /// Waits for the next used chain for so long.
    #[track_caller]
    pub fn wait_ms(&mut self, ms: u64) -> Option<(u16, u32)> {
        if let Some(line) = self.line {
            return Some(self.wait_for_interrupt(line));
        }
        if let Some(used) = self.pop() {
            return Some(used);
        }
        let end = clock::after_ms(ms);
        loop {
            match self.pop() {
                Some(used) => return Some(used),
                None if end.is_past() => return None,
                None => core::hint::spin_loop(),
            }
        }
    }

    /// The first wait is for an interrupt, whatever the ring says; then what it brought is taken
    /// before there is another wait.
    #[track_caller]
    fn wait_for_interrupt(&mut self, line: Line) -> (u16, u32) {
        loop {
            if self.interrupts > 0 {
                self.want_interrupt_at(self.seen);
                if let Some(used) = self.pop() {
                    return used;
                }
            }
            line.wait_beyond(self.interrupts, INTERRUPT_MS);
            self.interrupts = line.count();
            self.device.acknowledge();
        }
    }

    /// One chain and its answer: how many bytes the device says it wrote.
    #[track_caller]
    pub fn ask(&mut self, chain: &[Buffer]) -> u32 {
        let head = self.add(chain);
        self.kick();
        let (used, len) = self.wait();
        assert_eq!(used, head, "another chain was used");
        len
    }
}

fn direction(buffer: &Buffer) -> u16 {
    if buffer.write { FLAG_WRITE } else { 0 }
}
