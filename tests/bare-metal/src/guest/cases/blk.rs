//! The block device: virtio 1.2 §5.2. The disk has at least 1 MiB, and is all zeroes at the start.

use super::Cases;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Buffer, Device, Queue, feature, kind};
use crate::guest::{boot, clock};

pub const CASES: Cases = &[
    ("blk-identity", identity),
    ("blk-write-read", write_read),
    ("blk-parts", parts),
    ("blk-interrupt", interrupt),
    ("blk-indirect", indirect),
    ("blk-out-of-range", out_of_range),
    ("blk-read-only", read_only),
    ("blk-discard", discard),
    ("blk-write-zeroes", write_zeroes),
    ("blk-malformed", malformed),
    ("blk-reset-in-flight", reset_in_flight),
];

/// Request types. virtio 1.2 §5.2.6.
pub const IN: u32 = 0;
pub const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
/// Status bytes. virtio 1.2 §5.2.6.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// What the driver puts there before.
const NO_STATUS: u8 = 0xee;
/// Features. virtio 1.2 §5.2.3.
const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;
const SECTOR: u64 = 512;

/// A disk and its only queue.
pub struct Disk {
    pub device: Device,
    pub queue: Queue,
    pub features: u64,
    header: u64,
    status: u64,
}

impl Disk {
    #[track_caller]
    pub fn start(wanted: u64, size: u16) -> Self {
        let device = Device::find(kind::BLOCK);
        let features = device.negotiate(wanted);
        let queue = device.queue(0, size, features);
        device.ready();
        Self { device, queue, features, header: memory::take(PAGE), status: memory::take(PAGE) }
    }

    pub fn sectors(&self) -> u64 {
        self.device.config64(0)
    }

    /// The chain of one request, its header written.
    pub fn header(&self, kind: u32, sector: u64) -> Buffer {
        memory::write32(self.header, kind);
        memory::write32(self.header + 4, 0);
        memory::write64(self.header + 8, sector);
        memory::write8(self.status, NO_STATUS);
        Buffer::out(self.header, 16)
    }

    pub fn status(&self) -> Buffer {
        Buffer::fill(self.status, 1)
    }

    /// One request with a buffer: its status, and the length the device says.
    #[track_caller]
    pub fn ask(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let mut chain = [self.header(kind, sector); 10];
        chain[1..=data.len()].copy_from_slice(data);
        chain[data.len() + 1] = self.status();
        let len = self.queue.ask(&chain[..data.len() + 2]);
        (memory::read8(self.status), len)
    }

    #[track_caller]
    pub fn must(&mut self, kind: u32, sector: u64, data: &[Buffer]) {
        let (status, _) = self.ask(kind, sector, data);
        assert_eq!(status, OK, "request {kind} at sector {sector}");
    }
}

fn identity() {
    let mut disk = Disk::start(F_FLUSH, 16);
    say!("sectors {}", disk.sectors());
    let name = memory::take(PAGE);
    disk.must(GET_ID, 0, &[Buffer::fill(name, 20)]);
    let name = memory::bytes(name, 20);
    let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    say!("serial {}", core::str::from_utf8(&name[..len]).expect("the serial is text"));
    say!("read-only {}", disk.device.offers() & F_RO != 0);
}

/// A pattern over a MiB, by requests of all lengths, read back after a flush.
fn write_read() {
    let mut disk = Disk::start(F_FLUSH, 16);
    let buffer = memory::take(128 << 10);
    let mut sector = 0;
    for kib in [64, 128, 4, 1, 32] {
        memory::pattern(buffer, kib << 10, sector);
        disk.must(OUT, sector, &[Buffer::out(buffer, u32::try_from(kib << 10).unwrap_or(0))]);
        sector += kib * 2;
    }
    if disk.features & F_FLUSH != 0 {
        disk.must(FLUSH, 0, &[]);
    }
    let mut sector = 0;
    for kib in [64, 128, 4, 1, 32] {
        memory::fill(buffer, 0, kib << 10);
        let len = u32::try_from(kib << 10).unwrap_or(0);
        let (status, used) = disk.ask(IN, sector, &[Buffer::fill(buffer, len)]);
        assert_eq!((status, used), (OK, len + 1));
        memory::expect_pattern(buffer, kib << 10, sector);
        sector += kib * 2;
    }
    say!("sectors written {sector}");
}

/// Buffers cut in pieces that are no sectors.
fn parts() {
    let mut disk = Disk::start(0, 16);
    let buffer = memory::take(PAGE);
    memory::pattern(buffer, 1024, 7);
    let cut = |make: fn(u64, u32) -> Buffer| {
        [make(buffer, 1), make(buffer + 1, 510), make(buffer + 511, 2), make(buffer + 513, 511)]
    };
    disk.must(OUT, 3, &cut(Buffer::out));
    memory::fill(buffer, 0, PAGE);
    disk.must(IN, 3, &cut(Buffer::fill));
    memory::expect_pattern(buffer, 1024, 7);
}

fn interrupt() {
    let mut disk = Disk::start(feature::EVENT_INDEX, 16);
    let line = disk.queue.use_interrupts();
    let buffer = memory::take(PAGE);
    for sector in 0..20 {
        disk.must(IN, sector, &[Buffer::fill(buffer, 512)]);
    }
    assert!(line.count() > 0, "no interrupt came");
}

fn indirect() {
    let mut disk = Disk::start(feature::INDIRECT, 1);
    let (table, buffer) = (memory::take(PAGE), memory::take(PAGE));
    memory::pattern(buffer, 512, 1);
    for (kind, data) in [(OUT, Buffer::out(buffer, 512)), (IN, Buffer::fill(buffer, 512))] {
        let chain = [disk.header(kind, 5), data, disk.status()];
        disk.queue.add_indirect(&chain, table);
        disk.queue.kick();
        disk.queue.wait();
        assert_eq!(memory::read8(disk.status), OK);
        memory::expect_pattern(buffer, 512, 1);
    }
}

fn out_of_range() {
    let mut disk = Disk::start(0, 16);
    let buffer = memory::take(PAGE);
    let sectors = disk.sectors();
    for sector in [sectors, sectors - 1, u64::MAX, u64::MAX / SECTOR, 1 << 55] {
        for (kind, data) in [(IN, Buffer::fill(buffer, 1024)), (OUT, Buffer::out(buffer, 1024))] {
            let (status, _) = disk.ask(kind, sector, &[data]);
            assert_eq!(status, IOERR, "request {kind} at sector {sector}");
        }
    }
    disk.must(IN, sectors - 2, &[Buffer::fill(buffer, 1024)]);
}

/// The device refuses, whether or not we took note of the feature.
fn read_only() {
    for features in [F_RO | F_DISCARD | F_WRITE_ZEROES, 0] {
        let mut disk = Disk::start(features, 16);
        assert!(disk.device.offers() & F_RO != 0, "the disk can be written");
        let buffer = memory::take(PAGE);
        memory::fill(buffer, 0xaa, 512);
        let (status, _) = disk.ask(OUT, 0, &[Buffer::out(buffer, 512)]);
        assert_eq!(status, IOERR, "a write");
        memory::write64(buffer, 0);
        memory::write64(buffer + 8, 8);
        for kind in [DISCARD, WRITE_ZEROES] {
            let (status, _) = disk.ask(kind, 0, &[Buffer::out(buffer, 16)]);
            assert_ne!(status, OK, "request {kind}");
        }
        disk.must(IN, 0, &[Buffer::fill(buffer, 512)]);
    }
}

fn ranges(kind: u32, feature: u64) {
    let mut disk = Disk::start(feature | F_FLUSH, 16);
    assert!(disk.features & feature != 0, "the disk does not offer {feature:#x}");
    let (buffer, segment) = (memory::take(64 << 10), memory::take(PAGE));
    memory::pattern(buffer, 64 << 10, 9);
    disk.must(OUT, 0, &[Buffer::out(buffer, 64 << 10)]);
    let set = |sector: u64, sectors: u32| {
        memory::write64(segment, sector);
        memory::write32(segment + 8, sectors);
        memory::write32(segment + 12, 0);
        Buffer::out(segment, 16)
    };
    disk.must(kind, 0, &[set(16, 32)]);
    memory::fill(buffer, 0xff, 64 << 10);
    disk.must(IN, 0, &[Buffer::fill(buffer, 64 << 10)]);
    memory::expect_pattern(buffer, 16 * SECTOR, 9);
    if kind == WRITE_ZEROES {
        let zeroes = memory::bytes(buffer + 16 * SECTOR, 32 * 512);
        assert!(zeroes.iter().all(|byte| *byte == 0), "not all are zeroes");
    }
    // Beyond the end, and a sum that overflows.
    for (sector, count) in [(disk.sectors(), 1), (u64::MAX, 8), (disk.sectors() - 1, u32::MAX)] {
        let (status, _) = disk.ask(kind, 0, &[set(sector, count)]);
        assert_ne!(status, OK, "sector {sector}, {count} of them");
    }
}

fn discard() {
    ranges(DISCARD, F_DISCARD);
}

fn write_zeroes() {
    ranges(WRITE_ZEROES, F_WRITE_ZEROES);
}

/// Requests that are none: each is given back, and the next is served.
fn malformed() {
    let mut disk = Disk::start(F_FLUSH, 16);
    let buffer = memory::take(PAGE);
    let (header, status) = (disk.header, disk.status);
    let chains: [(&str, &[Buffer]); 7] = [
        ("no status", &[Buffer::out(header, 16)]),
        ("only a status", &[Buffer::fill(status, 1)]),
        ("a short header", &[Buffer::out(header, 15), Buffer::fill(status, 1)]),
        ("a header to write", &[Buffer::fill(header, 16), Buffer::fill(status, 1)]),
        (
            "a status to read",
            &[Buffer::out(header, 16), Buffer::fill(buffer, 512), Buffer::out(status, 1)],
        ),
        (
            "an empty status",
            &[Buffer::out(header, 16), Buffer::fill(buffer, 512), Buffer::fill(status, 0)],
        ),
        (
            "half a sector",
            &[Buffer::out(header, 16), Buffer::fill(buffer, 256), Buffer::fill(status, 1)],
        ),
    ];
    for (what, chain) in chains {
        disk.header(IN, 0);
        let head = disk.queue.add(chain);
        disk.queue.kick();
        let (used, len) = disk.queue.wait();
        assert_eq!(used, head, "{what}");
        say!("{what}: {len} bytes, status {:#x}", memory::read8(status));
        disk.must(IN, 0, &[Buffer::fill(buffer, 512)]);
    }
    let (status, _) = disk.ask(77, 0, &[Buffer::fill(buffer, 512)]);
    assert_eq!(status, UNSUPPORTED, "a request of no type");
    let (status, _) = disk.ask(OUT, 0, &[Buffer::fill(buffer, 512)]);
    assert_ne!(status, OK, "a write from a buffer to write");
}

/// A reset in the middle: nothing of the requests is done after it, `settle-ms=N` later, and the
/// device starts again. `rounds=N` times.
fn reset_in_flight() {
    let settle_ms = boot::number("settle-ms").unwrap_or(0);
    let mut disk = Disk::start(0, 16);
    let buffer = memory::take(1 << 20);
    for round in 0..boot::number("rounds").unwrap_or(20) {
        let header = memory::take(PAGE);
        for nth in 0..4_u64 {
            memory::write32(header + nth * 32, IN);
            memory::write64(header + nth * 32 + 8, nth * 8);
            let data = Buffer::fill(buffer + (nth << 18), 256 << 10);
            disk.queue.add(&[
                Buffer::out(header + nth * 32, 16),
                data,
                Buffer::fill(header + 2048 + nth, 1),
            ]);
        }
        disk.queue.kick();
        disk.device.reset();
        memory::fill(buffer, 0x5a, 1 << 20);
        memory::fill(header + 2048, 0x5a, 4);
        clock::pause_ms(settle_ms);
        let again = Disk::start(0, if round % 2 == 0 { 32 } else { 16 });
        for at in (0..1 << 20).step_by(4096) {
            assert_eq!(memory::read8(buffer + at), 0x5a, "the device wrote after its reset");
        }
        let statuses = memory::bytes(header + 2048, 4);
        assert_eq!(statuses, &[0x5a; 4], "the device answered after its reset");
        disk = again;
        let one = memory::take(PAGE);
        disk.must(IN, 0, &[Buffer::fill(one, 512)]);
    }
}
