//! The console device: virtio 1.2 §5.3.

use super::Cases;
use crate::guest::memory::{self, PAGE};
use crate::guest::virtio::{Buffer, Device, kind};

pub const CASES: Cases = &[("console", console), ("console-flood", flood)];

/// Lines in one buffer, in several, and in none.
fn console() {
    let device = Device::find(kind::CONSOLE);
    let features = device.negotiate(0);
    let _receive = device.queue(0, 16, features);
    let mut send = device.queue(1, 16, features);
    device.ready();
    let page = memory::take(PAGE);
    memory::put(page, b"one buffer\nseveral buffers\n");
    send.ask(&[Buffer::out(page, 11)]);
    send.ask(&[Buffer::out(page + 11, 4), Buffer::out(page + 15, 0), Buffer::out(page + 15, 12)]);
    send.ask(&[Buffer::out(page, 0)]);
    send.ask(&[Buffer::fill(page, 100)]);
    send.ask(&[Buffer::out(page, 11)]);
}

/// A MiB as fast as it goes.
fn flood() {
    let device = Device::find(kind::CONSOLE);
    let features = device.negotiate(0);
    let _receive = device.queue(0, 16, features);
    let mut send = device.queue(1, 16, features);
    device.ready();
    let block = memory::take(64 << 10);
    memory::fill(block, b'y', 64 << 10);
    for _ in 0..16 {
        send.ask(&[Buffer::out(block, 64 << 10)]);
    }
}
