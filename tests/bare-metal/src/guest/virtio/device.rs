//! A device: its registers, its features, its state.

use super::feature::VERSION_1;
use super::queue::{Queue, Rings};
use crate::guest::interrupts::Line;
use crate::guest::{boot, clock, memory};

/// Registers. virtio 1.2 §4.2.2.
pub mod register {
    pub const MAGIC: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SELECT: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SELECT: u64 = 0x24;
    pub const QUEUE_SELECT: u64 = 0x30;
    pub const QUEUE_SIZE_MAX: u64 = 0x34;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESCRIPTORS: u64 = 0x80;
    pub const QUEUE_DRIVER: u64 = 0x90;
    pub const QUEUE_DEVICE: u64 = 0xa0;
    pub const CONFIG_GENERATION: u64 = 0xfc;
    pub const CONFIG: u64 = 0x100;
}

/// Bits of the status register. virtio 1.2 §2.1.
pub mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
}

/// "virt"
const MAGIC: u32 = 0x7472_6976;

/// A device that was found.
#[derive(Clone, Copy)]
pub struct Device {
    /// Address of its registers.
    pub base: u64,
    /// Bytes of them.
    pub len: u64,
    interrupt: u8,
}

impl Device {
    /// Every device that the command line has a slot of.
    pub fn all() -> impl Iterator<Item = Self> {
        boot::command_line()
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("virtio_mmio.device=").and_then(Self::at))
    }

    /// LEN@ADDRESS:INTERRUPT
    fn at(slot: &str) -> Option<Self> {
        let (len, rest) = slot.split_once('@')?;
        let (base, interrupt) = rest.split_once(':')?;
        let interrupt = interrupt.split(':').next()?.parse().ok()?;
        let device = Self { base: boot::parse(base)?, len: boot::parse(len)?, interrupt };
        assert_eq!(device.read(register::MAGIC), MAGIC, "magic of the slot {slot}");
        assert_eq!(device.read(register::VERSION), 2, "version of the slot {slot}");
        Some(device)
    }

    /// The first device of a type.
    #[track_caller]
    pub fn find(kind: u32) -> Self {
        Self::find_nth(kind, 0)
    }

    /// A device of a type.
    #[track_caller]
    pub fn find_nth(kind: u32, nth: usize) -> Self {
        let mut devices = Self::all().filter(|device| device.kind() == kind);
        devices.nth(nth).unwrap_or_else(|| panic!("there is no device of type {kind}"))
    }

    /// Its type.
    pub fn kind(&self) -> u32 {
        self.read(register::DEVICE_ID)
    }

    /// Reads a register.
    pub fn read(&self, register: u64) -> u32 {
        memory::read32(self.base + register)
    }

    /// Writes a register.
    pub fn write(&self, register: u64, value: u32) {
        memory::write32(self.base + register, value);
    }

    /// A field of the configuration space.
    pub fn config8(&self, offset: u64) -> u8 {
        memory::read8(self.base + register::CONFIG + offset)
    }

    /// A field of the configuration space.
    pub fn config32(&self, offset: u64) -> u32 {
        memory::read32(self.base + register::CONFIG + offset)
    }

    /// A field of the configuration space, which did not change between its halves.
    pub fn config64(&self, offset: u64) -> u64 {
        loop {
            let before = self.read(register::CONFIG_GENERATION);
            let low = u64::from(self.config32(offset));
            let high = u64::from(self.config32(offset + 4));
            if self.read(register::CONFIG_GENERATION) == before {
                return low | high << 32;
            }
        }
    }

    /// Writes a field of the configuration space.
    pub fn set_config32(&self, offset: u64, value: u32) {
        memory::write32(self.base + register::CONFIG + offset, value);
    }

    /// Its status.
    pub fn status(&self) -> u32 {
        self.read(register::STATUS)
    }

    /// Adds to its status.
    pub fn add_status(&self, bits: u32) {
        self.write(register::STATUS, self.status() | bits);
    }

    /// Resets it and waits until it is.
    #[track_caller]
    pub fn reset(&self) {
        self.write(register::STATUS, 0);
        let end = clock::after_ms(clock::PATIENCE_MS);
        while self.status() != 0 {
            assert!(!end.is_past(), "the device is not reset: status {:#x}", self.status());
        }
    }

    /// What it offers.
    pub fn offers(&self) -> u64 {
        let half = |select| {
            self.write(register::DEVICE_FEATURES_SELECT, select);
            u64::from(self.read(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Says what we take, offered or not.
    pub fn take(&self, features: u64) {
        let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
        self.write(register::DRIVER_FEATURES_SELECT, 0);
        self.write(register::DRIVER_FEATURES, u32::from_le_bytes([a, b, c, d]));
        self.write(register::DRIVER_FEATURES_SELECT, 1);
        self.write(register::DRIVER_FEATURES, u32::from_le_bytes([e, f, g, h]));
    }

    /// Resets the device and negotiates: what it has of `wanted`, and version 1. Gives that.
    #[track_caller]
    pub fn negotiate(&self, wanted: u64) -> u64 {
        self.reset();
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        let offers = self.offers();
        assert!(offers & VERSION_1 != 0, "the device offers {offers:#x}, not version 1");
        let features = offers & (wanted | VERSION_1);
        self.take(features);
        self.add_status(status::FEATURES_OK);
        assert!(self.status() & status::FEATURES_OK != 0, "{features:#x} is refused");
        features
    }

    /// The most descriptors of a queue; 0 where there is none.
    pub fn queue_max(&self, index: u16) -> u16 {
        self.write(register::QUEUE_SELECT, index.into());
        u16::try_from(self.read(register::QUEUE_SIZE_MAX)).expect("queues have at most 32768")
    }

    /// Sets a queue up wherever its rings are, and whether or not that makes sense.
    pub fn set_queue(&self, index: u16, rings: &Rings) {
        self.write(register::QUEUE_SELECT, index.into());
        self.write(register::QUEUE_SIZE, rings.size.into());
        self.set_address(register::QUEUE_DESCRIPTORS, rings.descriptors);
        self.set_address(register::QUEUE_DRIVER, rings.available);
        self.set_address(register::QUEUE_DEVICE, rings.used);
        self.write(register::QUEUE_READY, 1);
    }

    /// Writes both halves of an address.
    pub fn set_address(&self, register: u64, address: u64) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        self.write(register, u32::from_le_bytes([a, b, c, d]));
        self.write(register + 4, u32::from_le_bytes([e, f, g, h]));
    }

    /// A new queue of `size`, or of the most that the device has.
    #[track_caller]
    pub fn queue(&self, index: u16, size: u16, features: u64) -> Queue {
        let most = self.queue_max(index);
        assert!(most > 0, "the device has no queue {index}");
        let rings = Rings::new(size.min(most));
        self.set_queue(index, &rings);
        Queue::new(*self, index, rings, features)
    }

    /// The device may begin.
    #[track_caller]
    pub fn ready(&self) {
        self.add_status(status::DRIVER_OK);
        let status = self.status();
        assert!(status & status::NEEDS_RESET == 0, "the device wants a reset: {status:#x}");
    }

    /// Tells it of buffers.
    pub fn notify(&self, queue: u32) {
        self.write(register::QUEUE_NOTIFY, queue);
    }

    /// Its interrupts.
    pub fn line(&self) -> Line {
        Line::of_input(self.interrupt)
    }

    /// Reads why it interrupts, and says that we know.
    pub fn acknowledge(&self) -> u32 {
        let why = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, why);
        why
    }
}
