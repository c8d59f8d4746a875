//! A guest that keeps every queue of every device busy, and never stops.

use core::array;

use crate::guest::gate;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Device, FLAG_WRITE, Rings, status, write_descriptor};

/// More than one that the harness sets up has.
const MAX_DEVICES: usize = 8;
const MAX_QUEUES: usize = 6;
/// Descriptors of each queue, half of them for the device to write.
const SIZE: u16 = 8;
/// Rounds from a reset of a device to the next.
const ROUNDS: u32 = 20;
/// A port that no device has.
const NO_PORT: u16 = 0x1234;
const HEADS: [u16; SIZE as usize] = [0, 1, 2, 3, 4, 5, 6, 7];

/// What a device gives back is offered again at once, each queue is kicked whether it has something
/// or not, and each device is reset again and again.
pub fn endless() {
    let page = memory::take(PAGE);
    let rings: [[Rings; MAX_QUEUES]; MAX_DEVICES] =
        array::from_fn(|_| array::from_fn(|_| filled(page)));
    say!("flooding");
    loop {
        for (device, rings) in Device::all().zip(&rings) {
            start(&device, rings);
        }
        for _ in 0..ROUNDS {
            for (device, rings) in Device::all().zip(&rings) {
                for (queue, rings) in (0..).zip(rings) {
                    rings.offer(rings.used_index(), &HEADS);
                    device.notify(queue);
                }
                let _ = device.config32(0);
                gate::out32(NO_PORT, 0);
            }
        }
    }
}

fn filled(page: u64) -> Rings {
    let rings = Rings::new(SIZE);
    for index in 0..SIZE {
        let flags = if index % 2 == 0 { FLAG_WRITE } else { 0 };
        write_descriptor(rings.descriptor(index), page, 64, flags, 0);
    }
    rings
}

fn start(device: &Device, rings: &[Rings]) {
    device.negotiate(0);
    for (queue, rings) in (0..).zip(rings).take_while(|(queue, _)| device.queue_max(*queue) > 0) {
        memory::fill(rings.available, 0, 6 + 2 * u64::from(SIZE));
        memory::fill(rings.used, 0, 6 + 8 * u64::from(SIZE));
        device.set_queue(queue, rings);
    }
    device.add_status(status::DRIVER_OK);
}
