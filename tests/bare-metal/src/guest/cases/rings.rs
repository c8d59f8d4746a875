//! What every device does with its rings, shown on the entropy device: it answers each chain.

use super::Cases;
use crate::guest::clock;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Buffer, Device, Queue, feature, kind, register};

pub const CASES: Cases = &[
    ("ring-wraps", wraps),
    ("ring-wraps-event-index", wraps_event_index),
    ("ring-of-one", ring_of_one),
    ("ring-of-most", ring_of_most),
    ("ring-full", ring_full),
    ("ring-event-index", event_index),
    ("ring-no-interrupt", no_interrupt),
    ("ring-reset-again", reset_again),
    ("ring-interrupt-status", interrupt_status),
    ("ring-anywhere", ring_anywhere),
];

fn start(features: u64, size: u16) -> (Device, Queue) {
    let device = Device::find(kind::ENTROPY);
    let features = device.negotiate(features);
    let queue = device.queue(0, size, features);
    device.ready();
    (device, queue)
}

/// More chains than an index has numbers: `chains=N`.
fn wrap(features: u64) {
    let (_, mut queue) = start(features, 256);
    let buffer = memory::take(PAGE);
    let wanted = u32::try_from(crate::guest::boot::number("chains").unwrap_or(70_000))
        .expect("a number of chains");
    let mut done = 0;
    while done < wanted {
        let batch = queue.free();
        for _ in 0..batch {
            queue.add(&[Buffer::fill(buffer, 1)]);
        }
        queue.kick();
        for _ in 0..batch {
            let (_, len) = queue.wait();
            assert_eq!(len, 1, "chain {done}");
            done += 1;
        }
    }
    assert_eq!(queue.pop(), None, "more chains were used than added");
    say!("used at least {wanted} chains");
}

fn wraps() {
    wrap(0);
}

fn wraps_event_index() {
    wrap(feature::EVENT_INDEX);
}

fn ring_of_one() {
    for features in [0, feature::EVENT_INDEX, feature::EVENT_INDEX | feature::INDIRECT] {
        let (_, mut queue) = start(features, 1);
        let buffer = memory::take(PAGE);
        for _ in 0..50 {
            assert_eq!(queue.ask(&[Buffer::fill(buffer, 8)]), 8);
        }
    }
}

/// As large as the device allows.
fn ring_of_most() {
    let device = Device::find(kind::ENTROPY);
    let most = device.queue_max(0);
    say!("at most {most} descriptors");
    let (_, mut queue) = start(0, most);
    let buffer = memory::take(PAGE);
    for _ in 0..most {
        queue.add(&[Buffer::fill(buffer, 1)]);
    }
    queue.kick();
    for _ in 0..most {
        queue.wait();
    }
}

/// One chain of all descriptors.
fn ring_full() {
    let (_, mut queue) = start(0, 16);
    let buffer = memory::take(PAGE);
    for _ in 0..4 {
        let mut chain = [Buffer::fill(buffer, 4); 16];
        for (nth, part) in chain.iter_mut().enumerate() {
            part.address += 4 * nth as u64;
        }
        let len = queue.ask(&chain);
        assert!((1..=64).contains(&len), "{len} bytes of 64");
    }
}

/// Interrupts come where the driver says, and only there.
fn event_index() {
    let (device, mut queue) = start(feature::EVENT_INDEX, 16);
    let line = device.line();
    let buffer = memory::take(PAGE);
    // The first may bring one in any case.
    queue.want_interrupt_at(1000);
    queue.ask(&[Buffer::fill(buffer, 1)]);
    line.comes_beyond(0, 30);
    device.acknowledge();
    let seen = line.count();
    // Far away: none.
    for _ in 1..4 {
        queue.ask(&[Buffer::fill(buffer, 1)]);
    }
    assert!(!line.comes_beyond(seen, 30), "an interrupt that was not wanted");
    assert_eq!(device.read(register::INTERRUPT_STATUS) & 1, 0, "the status says there was one");
    // The seventh chain, which has index 6.
    queue.want_interrupt_at(6);
    for _ in 4..6 {
        queue.ask(&[Buffer::fill(buffer, 1)]);
    }
    assert!(!line.comes_beyond(seen, 30), "an interrupt too early");
    queue.ask(&[Buffer::fill(buffer, 1)]);
    assert!(line.comes_beyond(seen, 60_000), "no interrupt at its index");
    assert_eq!(line.count(), seen + 1);
    device.acknowledge();
}

/// Without the event index, a flag says that interrupts are not wanted.
fn no_interrupt() {
    let (device, mut queue) = start(0, 16);
    let line = device.line();
    let buffer = memory::take(PAGE);
    memory::write16(queue.rings.available, 1);
    for _ in 0..4 {
        queue.ask(&[Buffer::fill(buffer, 1)]);
    }
    assert!(!line.comes_beyond(0, 30), "an interrupt that was not wanted");
    memory::write16(queue.rings.available, 0);
    queue.ask(&[Buffer::fill(buffer, 1)]);
    assert!(line.comes_beyond(0, 60_000), "no interrupt");
    device.acknowledge();
}

/// A device serves again after each reset, on rings of another size at another place.
fn reset_again() {
    for size in [4, 1, 64, 8] {
        let (device, mut queue) = start(0, size);
        let buffer = memory::take(PAGE);
        for _ in 0..10 {
            assert_eq!(queue.ask(&[Buffer::fill(buffer, 4)]), 4);
        }
        device.reset();
        assert_eq!(device.read(register::INTERRUPT_STATUS), 0, "an interrupt outlives the reset");
        device.write(register::QUEUE_SELECT, 0);
        assert_eq!(device.read(register::QUEUE_READY), 0, "a queue outlives the reset");
        // A driver that was let go is not heard.
        queue.add(&[Buffer::fill(buffer, 4)]);
        device.notify(0);
        clock::pause_ms(10);
        assert_eq!(queue.pop(), None, "a device that was reset works");
    }
}

/// The status register says why, and acknowledging takes that back.
fn interrupt_status() {
    let (device, mut queue) = start(0, 4);
    let buffer = memory::take(PAGE);
    queue.ask(&[Buffer::fill(buffer, 4)]);
    let end = clock::after_ms(clock::PATIENCE_MS);
    while device.read(register::INTERRUPT_STATUS) == 0 {
        assert!(!end.is_past(), "used, and the status does not say so");
    }
    assert_eq!(device.acknowledge(), 1);
    assert_eq!(device.read(register::INTERRUPT_STATUS), 0);
}

/// Rings close to each other, with the least alignment that there may be.
fn ring_anywhere() {
    let device = Device::find(kind::ENTROPY);
    let features = device.negotiate(0);
    let page = memory::take(PAGE);
    let rings = crate::guest::virtio::Rings {
        size: 8,
        descriptors: page + 16,
        available: page + 16 + 128 + 2,
        used: page + 16 + 128 + 32 + 4,
    };
    device.set_queue(0, &rings);
    let mut queue = Queue::new(device, 0, rings, features);
    device.ready();
    let buffer = memory::take(PAGE);
    for nth in 0..100 {
        assert_eq!(queue.ask(&[Buffer::fill(buffer + nth, 3)]), 3);
    }
}
