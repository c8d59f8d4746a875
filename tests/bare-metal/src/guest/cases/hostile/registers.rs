//! Hostile moves against a device's registers: the steps of its start, its features, its
//! configuration space, widths, numbers of queues.

use super::{SETTLE_MS, activate, expect_alive, target};
use crate::guest::serial::say;
use crate::guest::virtio::{Rings, feature, register, status};
use crate::guest::{clock, memory};

pub fn no_queues() {
    let (device, queue) = target();
    device.negotiate(0);
    device.add_status(status::DRIVER_OK);
    for index in 0..4 {
        device.notify(index);
    }
    clock::pause_ms(SETTLE_MS);
    say!("no queues: status {:#x}", device.status());
    expect_alive(&device, queue);
}

/// The steps of the start left out, turned round, and taken back.
pub fn order() {
    let (device, queue) = target();
    for steps in [
        &[status::DRIVER_OK][..],
        &[status::ACKNOWLEDGE, status::DRIVER_OK],
        &[status::FEATURES_OK, status::DRIVER_OK, status::ACKNOWLEDGE],
        &[0xff, 0x7f, 0x80, 0x40],
        &[u32::MAX, 1, 0xf],
    ] {
        device.reset();
        device.set_queue(queue, &Rings::new(8));
        for step in steps {
            device.write(register::STATUS, *step);
            device.notify(queue.into());
        }
        clock::pause_ms(1);
        say!("{} steps: status {:#x}", steps.len(), device.status());
        expect_alive(&device, queue);
    }
    // Bits that are taken back without a reset.
    let rings = Rings::new(8);
    activate(&device, queue, &rings, 0);
    device.write(register::STATUS, status::ACKNOWLEDGE);
    device.write(register::STATUS, 0xf);
    device.notify(queue.into());
    clock::pause_ms(SETTLE_MS);
    expect_alive(&device, queue);
}

/// Features that were not offered are refused.
pub fn features() {
    let (device, queue) = target();
    let offers = device.offers();
    for taken in [u64::MAX, offers | 1 << 63, offers | 1 << 27, !offers, 0] {
        device.reset();
        device.add_status(status::ACKNOWLEDGE | status::DRIVER);
        device.take(taken);
        device.add_status(status::FEATURES_OK);
        let refused = device.status() & status::FEATURES_OK == 0;
        let possible = taken & !offers == 0 && taken & feature::VERSION_1 != 0;
        assert_eq!(!refused, possible, "{taken:#x} of {offers:#x}");
        device.add_status(status::DRIVER_OK);
        device.notify(queue.into());
    }
    for select in [2, 3, 31, 32, u32::MAX] {
        device.write(register::DEVICE_FEATURES_SELECT, select);
        assert_eq!(device.read(register::DEVICE_FEATURES), 0, "features of word {select}");
        device.write(register::DRIVER_FEATURES_SELECT, select);
        device.write(register::DRIVER_FEATURES, u32::MAX);
    }
    expect_alive(&device, queue);
}

/// Beyond the end of the configuration space there is nothing, which reads as zero.
pub fn config() {
    let (device, queue) = target();
    let end = device.len.min(0x1000);
    for offset in (register::CONFIG..end - 8).step_by(12) {
        let at = device.base + offset;
        memory::read8(at);
        memory::read16(at);
        memory::read32(at);
        memory::read64(at);
        memory::read32(at + 1);
        memory::read64(at + 3);
    }
    assert_eq!(memory::read64(device.base + end - 8), 0, "at the end of the slot");
    for offset in (register::CONFIG..end - 8).step_by(60) {
        let at = device.base + offset;
        memory::write8(at, 0xff);
        memory::write16(at + 1, 0xffff);
        memory::write32(at, u32::MAX);
        memory::write64(at, u64::MAX);
    }
    expect_alive(&device, queue);
}

/// Registers are 32 bits wide and aligned; what is not, is nothing.
pub fn widths() {
    let (device, queue) = target();
    for offset in 0..register::CONFIG - 8 {
        let at = device.base + offset;
        memory::read8(at);
        memory::read16(at);
        memory::read64(at);
        if offset % 4 != 0 {
            memory::read32(at);
        }
    }
    for offset in (0..register::CONFIG - 8).step_by(3) {
        let at = device.base + offset;
        memory::write8(at, 0xff);
        memory::write16(at, 0xffff);
        memory::write64(at, u64::MAX);
        if offset % 4 != 0 {
            memory::write32(at, u32::MAX);
        }
    }
    // Those that can only be read, and those that are none.
    for register in [0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x60, 0xfc, 0x18, 0x28, 0x3c, 0x40, 0xac] {
        device.write(register, u32::MAX);
        device.read(register);
    }
    assert_eq!(device.read(register::MAGIC), 0x7472_6976);
    device.reset();
    expect_alive(&device, queue);
}

pub fn queue_numbers() {
    let (device, queue) = target();
    let rings = Rings::new(8);
    activate(&device, queue, &rings, 0);
    for number in [16, 255, 256, 0x7fff, 0x8000, 0xffff, 0x1_0000, u32::MAX] {
        device.notify(number);
        device.write(register::QUEUE_SELECT, number);
        assert_eq!(device.read(register::QUEUE_SIZE_MAX), 0, "queue {number} exists");
        assert_eq!(device.read(register::QUEUE_READY), 0, "queue {number} is ready");
        device.write(register::QUEUE_SIZE, 8);
        device.write(register::QUEUE_READY, 1);
    }
    expect_alive(&device, queue);
}
