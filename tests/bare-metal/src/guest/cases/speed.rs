//! Cases that measure, for benches: `mib=N` through a device. Each says `rate N MiB/s`.

use super::Cases;
use super::blk::{Disk, IN, OUT};
use super::vsock::{CREDIT_UPDATE, HEADER, RW, Socket};
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::Buffer;
use crate::guest::{boot, clock};

pub const CASES: Cases = &[
    ("speed-blk-read", blk_read),
    ("speed-blk-write", blk_write),
    ("speed-vsock-send", vsock_send),
    ("speed-vsock-receive", vsock_receive),
    ("speed-exits", exits),
];

const REQUEST_LEN: u32 = 128 << 10;
const DEPTH: u64 = 8;

fn mib() -> u64 {
    boot::number("mib").unwrap_or(64)
}

fn say_rate(mib: u64, from: u64) {
    let micros = clock::micros(from, clock::ticks()).max(1);
    say!("rate {} MiB/s", mib * 1_000_000 / micros);
}

/// Requests of 128 KiB, eight at a time, over the whole disk again and again.
fn blk(kind: u32) {
    let mut disk = Disk::start(0, 64);
    let len = u64::from(REQUEST_LEN);
    let per_pass = disk.sectors() * 512 / len;
    let total = mib() * (1 << 20) / len;
    let area = memory::take(DEPTH * len);
    let headers = memory::take(PAGE);
    let start = clock::ticks();
    let (mut asked, mut done) = (0, 0);
    // The slot of each chain, by its head.
    let mut slots = [0_u64; 64];
    let mut free: [u64; 8] = core::array::from_fn(|nth| nth as u64);
    let mut free_count = free.len();
    while done < total {
        while asked < total && free_count > 0 {
            free_count -= 1;
            let slot = free[free_count];
            let header = headers + slot * 32;
            memory::write32(header, kind);
            memory::write64(header + 8, asked % per_pass * len / 512);
            let data = Buffer { address: area + slot * len, len: REQUEST_LEN, write: kind == IN };
            let status = Buffer::fill(headers + 2048 + slot, 1);
            let head = disk.queue.add(&[Buffer::out(header, 16), data, status]);
            slots[usize::from(head)] = slot;
            asked += 1;
        }
        disk.queue.kick();
        let (head, _) = disk.queue.wait();
        let slot = slots[usize::from(head)];
        assert_eq!(memory::read8(headers + 2048 + slot), 0, "request {done}");
        free[free_count] = slot;
        free_count += 1;
        done += 1;
    }
    say_rate(mib(), start);
}

fn blk_read() {
    blk(IN);
}

fn blk_write() {
    blk(OUT);
}

/// To a host that reads and throws away.
fn vsock_send() {
    let mut socket = Socket::start(0);
    socket.connect();
    let total = mib() << 20;
    let start = clock::ticks();
    let mut sent = 0;
    while sent < total {
        let len = socket.credit().min(64 << 10);
        if len > 0 {
            socket.sent = socket.sent.wrapping_add(len);
            socket.packet(RW, 0, len);
            sent += u64::from(len);
        }
        while let Some(packet) = socket.next(if len == 0 { clock::PATIENCE_MS } else { 0 }) {
            assert_eq!(packet.operation, CREDIT_UPDATE, "after {sent} bytes");
            socket.done(packet);
            if socket.credit() > 0 {
                break;
            }
        }
    }
    say_rate(mib(), start);
    socket.close();
}

/// From a host that sends `mib=N`.
fn vsock_receive() {
    let mut socket = Socket::start(0);
    socket.connect();
    let total = mib() << 20;
    let start = clock::ticks();
    let (mut got, mut told) = (0, 0);
    while got < total {
        let packet = socket.next(clock::PATIENCE_MS).expect("more comes");
        if packet.operation == RW {
            got += u64::from(packet.len);
        }
        assert!(memory::read8(packet.at + HEADER) != 0xfe, "a byte that was not sent");
        socket.give_back(packet);
        // Before half of the buffers, and of the credit, is used.
        if got - told >= 64 << 10 {
            told = got;
            socket.tell_of_buffers();
            socket.packet(CREDIT_UPDATE, 0, 0);
        }
    }
    say_rate(mib(), start);
}

/// What an exit costs: reads of a register, and writes to a port that is none.
fn exits() {
    let device = super::rng_device();
    let start = clock::ticks();
    for _ in 0..2000 {
        device.read(0);
    }
    let middle = clock::ticks();
    for _ in 0..2000 {
        crate::guest::gate::out8(0x80, 0);
    }
    let end = clock::ticks();
    say!("exit mmio {} ns", clock::micros(start, middle) / 2);
    say!("exit port {} ns", clock::micros(middle, end) / 2);
}
