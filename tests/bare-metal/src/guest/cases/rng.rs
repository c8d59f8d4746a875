//! The entropy device: virtio 1.2 §5.4.

use super::Cases;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Buffer, Device, feature, kind};

pub const CASES: Cases = &[
    ("rng", rng),
    ("rng-interrupt", rng_interrupt),
    ("rng-indirect", rng_indirect),
    ("rng-4-gib", rng_4_gib),
    ("rng-zero-length", rng_zero_length),
    ("rng-read-only-buffer", rng_read_only_buffer),
];

fn start(features: u64) -> (Device, crate::guest::virtio::Queue) {
    let device = Device::find(kind::ENTROPY);
    let features = device.negotiate(features);
    let queue = device.queue(0, 64, features);
    device.ready();
    (device, queue)
}

/// Two buffers, both full, and not the same.
fn rng() {
    let (_, mut queue) = start(0);
    let (a, b) = (memory::take(PAGE), memory::take(PAGE));
    for at in [a, b] {
        let len = queue.ask(&[Buffer::fill(at, 32)]);
        assert!((1..=32).contains(&len), "{len} bytes");
    }
    assert_ne!(memory::bytes(a, 16), memory::bytes(b, 16), "the same bytes twice");
    assert_eq!(memory::bytes(a + 32, 32), &[0; 32], "bytes behind the buffer");
}

fn rng_interrupt() {
    let (device, mut queue) = start(feature::EVENT_INDEX);
    let line = queue.use_interrupts();
    let buffer = memory::take(PAGE);
    for _ in 0..20 {
        assert!(queue.ask(&[Buffer::fill(buffer, 16)]) > 0);
    }
    say!("interrupts came: {}", line.count() > 0);
    assert!(line.count() > 0, "none came");
    device.acknowledge();
}

fn rng_indirect() {
    let (_, mut queue) = start(feature::INDIRECT);
    let (table, buffer) = (memory::take(PAGE), memory::take(PAGE));
    let parts = [Buffer::fill(buffer, 8), Buffer::fill(buffer + 100, 8)];
    let head = queue.add_indirect(&parts, table);
    queue.kick();
    let (used, len) = queue.wait();
    assert_eq!(used, head);
    assert!((1..=16).contains(&len), "{len} bytes");
}

/// A chain that adds up to 4 GiB is not what a device allocates, or fills.
fn rng_4_gib() {
    const PARTS: usize = 63;
    let (_, mut queue) = start(feature::INDIRECT);
    let table = memory::take(PARTS as u64 * 16);
    let buffer = memory::take(16 << 20 >> 4);
    let part = Buffer::fill(buffer, 1 << 20);
    let head = queue.add_indirect(&[part; PARTS], table);
    queue.kick();
    let (used, len) = queue.wait();
    assert_eq!(used, head);
    say!("of 63 MiB: {len} bytes");
    assert!(len > 0 && len <= 64 << 10, "{len} bytes at once");
    // One descriptor of nearly 4 GiB leaves memory.
    queue.add(&[Buffer::fill(buffer, u32::MAX)]);
    queue.kick();
    let (_, len) = queue.wait();
    say!("of 4 GiB: {len} bytes");
    assert!(len <= 64 << 10, "{len} bytes at once");
    assert!(queue.ask(&[Buffer::fill(buffer, 16)]) > 0, "it works on");
}

fn rng_zero_length() {
    let (_, mut queue) = start(0);
    let buffer = memory::take(PAGE);
    assert_eq!(queue.ask(&[Buffer::fill(buffer, 0)]), 0, "nothing fits into nothing");
    assert!(queue.ask(&[Buffer::fill(buffer, 0), Buffer::fill(buffer, 16)]) <= 16);
    assert!(queue.ask(&[Buffer::fill(buffer, 16)]) > 0, "it works on");
}

/// A buffer that the device may only read stays as it is.
fn rng_read_only_buffer() {
    let (_, mut queue) = start(0);
    let buffer = memory::take(PAGE);
    assert_eq!(queue.ask(&[Buffer::out(buffer, 64)]), 0, "written to a buffer to read");
    assert_eq!(memory::bytes(buffer, 64), &[0; 64]);
    assert!(queue.ask(&[Buffer::fill(buffer, 16)]) > 0, "it works on");
}
