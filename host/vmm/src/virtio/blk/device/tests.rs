//! Whole disks, behind the transport and its driver, on files and on each engine that this machine
//! has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::rate_limit::Limit;
use crate::virtio::blk::EngineKind;
use crate::virtio::blk::engine::ring::Ring;
use crate::virtio::blk::engine::workers::Workers;
use crate::virtio::testing::{Buffer, Driver, EVENT_IDX, INDIRECT_DESC};

const SECTORS: u64 = 4096;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const DONE: u8 = 0;
const IO_ERROR: u8 = 1;

fn config() -> Config {
    Config {
        file: -1,
        serial: "root".to_owned(),
        read_only: false,
        disposable: false,
        engine: EngineKind::Threads,
        limits: Limits::default(),
    }
}

fn free() -> OnThread {
    Arc::new(|| Ok(()))
}

fn image(sectors: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(sectors * 512).unwrap();
    file
}

/// Those that work here.
fn engines() -> Vec<EngineKind> {
    match Ring::new(image(1)) {
        Ok(_) => vec![EngineKind::IoUring, EngineKind::Threads],
        Err(error) => {
            println!("SKIPPED: io_uring: {error}");
            vec![EngineKind::Threads]
        }
    }
}

/// A request that was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    head: u16,
    data: Option<Buffer>,
    status: Buffer,
}

/// A disk and its driver.
struct Bench {
    driver: Driver,
    file: File,
    used: BTreeMap<u32, u32>,
}

impl Bench {
    fn new(config: &Config, file: File) -> Self {
        let device = Device::new(config, file.try_clone().unwrap().into(), &free()).unwrap();
        let mut bench = Self { driver: Driver::new(Box::new(device)), file, used: BTreeMap::new() };
        bench.start();
        bench
    }

    fn with(engine: EngineKind) -> Self {
        Self::new(&Config { engine, ..config() }, image(SECTORS))
    }

    fn start(&mut self) {
        let features = self.driver.offered() & !EVENT_IDX;
        self.driver.start(features, 128);
        self.driver.run();
    }

    /// Adds a request, and does not tell of it.
    fn add(&mut self, kind: u32, sector: u64, data: Option<Buffer>) -> Sent {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let queue = self.driver.queue(0);
        let header = queue.readable(&header);
        let status = queue.writable(1);
        let buffers: Vec<Buffer> =
            [Some(header), data, Some(status)].into_iter().flatten().collect();
        self.driver.memory.write_obj(0xee_u8, GuestAddress(status.addr)).unwrap();
        let head = self.driver.queue(0).add_indirect(&buffers);
        Sent { head, data, status }
    }

    fn finish(&mut self, sent: Sent) -> u8 {
        self.driver.kick(0);
        self.driver.run();
        while self.used.remove(&u32::from(sent.head)).is_none() {
            let used = self.driver.queue(0).take_used();
            if used.is_empty() {
                assert!(self.driver.wait(), "a request never came back");
            }
            self.used.extend(used);
        }
        self.driver.memory.read_obj(GuestAddress(sent.status.addr)).unwrap()
    }

    fn ask(&mut self, kind: u32, sector: u64, data: Option<Buffer>) -> u8 {
        let sent = self.add(kind, sector, data);
        self.finish(sent)
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        let data = self.driver.queue(0).readable(bytes);
        self.ask(OUT, sector, Some(data))
    }

    fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, u8> {
        let data = self.driver.queue(0).writable(len);
        match self.ask(IN, sector, Some(data)) {
            DONE => Ok(self.driver.queue(0).read(data)),
            other => Err(other),
        }
    }

    fn range(&mut self, kind: u32, (sector, sectors, flags): (u64, u32, u32)) -> u8 {
        let bytes = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()];
        let data = self.driver.queue(0).readable(&bytes.concat());
        self.ask(kind, 0, Some(data))
    }

    fn content(&self, sector: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        self.file.read_exact_at(&mut bytes, sector * 512).unwrap();
        bytes
    }
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|index| seed.wrapping_add(u8::try_from(index % 251).unwrap())).collect()
}

#[test]
fn what_is_written_is_in_the_file_and_is_read_again() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        let bytes = pattern(3, 128 << 10);
        assert_eq!(bench.write(17, &bytes), DONE);
        assert_eq!(bench.content(17, bytes.len()), bytes);
        assert_eq!(bench.read(17, bytes.len()), Ok(bytes));
        assert_eq!(bench.ask(FLUSH, 0, None), DONE);
        assert!(bench.driver.take_interrupt());
        for (name, value) in
            [("writes", 1), ("written_bytes", 128 << 10), ("reads", 1), ("flushes", 1)]
        {
            assert_eq!(bench.driver.counter(name), value, "{name}");
        }
    }
}

#[test]
fn last_sector_is_the_last() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        assert_eq!(bench.write(SECTORS - 1, &pattern(1, 512)), DONE);
        assert_eq!(bench.write(SECTORS - 1, &pattern(1, 1024)), IO_ERROR);
        assert_eq!(bench.write(SECTORS, &pattern(1, 512)), IO_ERROR);
        assert_eq!(bench.read(u64::MAX, 512), Err(IO_ERROR));
        assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * 512);
        assert_eq!(bench.driver.counter("malformed"), 3);
    }
}

#[test]
fn many_requests_at_once_are_all_done_and_each_as_asked() {
    for engine in engines() {
        for features in [0, EVENT_IDX] {
            let mut bench = Bench::with(engine);
            bench.driver.start(INDIRECT_DESC | features | feature::FLUSH, 128);
            let buffers: Vec<Vec<u8>> = (0..100).map(|seed| pattern(seed, 4096)).collect();
            let mut sent = Vec::new();
            for (index, bytes) in buffers.iter().enumerate() {
                let data = bench.driver.queue(0).readable(bytes);
                sent.push(bench.add(OUT, index as u64 * 37, Some(data)));
            }
            for sent in sent.drain(..) {
                assert_eq!(bench.finish(sent), DONE);
            }
            for index in 0..100 {
                let data = bench.driver.queue(0).writable(4096);
                sent.push(bench.add(IN, index * 37, Some(data)));
            }
            for (index, sent) in sent.into_iter().enumerate() {
                assert_eq!(bench.finish(sent), DONE);
                let read = bench.driver.queue(0).read(sent.data.unwrap());
                assert_eq!(read, buffers[index]);
            }
        }
    }
}

#[test]
fn requests_at_work_are_known_until_the_last_of_them_is_done() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        let in_flight = |bench: &Bench| {
            bench.driver.transport.device().downcast_mut::<Device>().unwrap().in_flight()
        };
        assert!(in_flight(&bench).is_none());
        let request = match &bench.driver.transport.device().downcast_mut::<Device>().unwrap().state
        {
            State::Active(active) => Arc::clone(&active.memory),
            other => panic!("{other:?}"),
        };
        let handle = in_flight(&bench).unwrap();
        assert!(in_flight(&bench).is_none(), "what was begun since is not at work");
        let data = bench.driver.queue(0).writable(64 << 10);
        let sent = bench.add(IN, 0, Some(data));
        assert_eq!(bench.finish(sent), DONE);
        assert_eq!(handle.strong_count(), 1);
        drop(request);
        assert_eq!(handle.strong_count(), 0);
        assert!(in_flight(&bench).is_none());
    }
}

/// A slow disk: what was started begins when the engine's event was seen as often as this.
struct Late {
    engine: Workers,
    held: Vec<Task>,
    turns: Arc<AtomicUsize>,
    event: EventFd,
}

impl Late {
    fn new(file: &File, turns: &Arc<AtomicUsize>) -> Self {
        let engine = Workers::new(file.try_clone().unwrap(), &free()).unwrap();
        let event = EventFd::from_value_and_flags(1, EfdFlags::EFD_NONBLOCK).unwrap();
        Self { engine, held: Vec::new(), turns: turns.clone(), event }
    }

    fn has_begun(&self) -> bool {
        self.turns.load(Ordering::SeqCst) == 0
    }
}

impl Engine for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    fn start(&mut self, task: Task) {
        self.held.push(task);
    }

    fn submit(&mut self) {}

    fn finished(&mut self, done: &mut Vec<Done>) {
        if self.has_begun() {
            self.held.drain(..).for_each(|task| self.engine.start(task));
        }
        self.engine.finished(done);
    }

    fn drain(&mut self) {
        self.held.clear();
        self.engine.drain();
    }

    fn event(&self) -> BorrowedFd<'_> {
        if self.has_begun() { self.engine.event() } else { self.event.as_fd() }
    }

    fn acknowledge(&mut self) {
        if !self.has_begun() {
            self.turns.fetch_sub(1, Ordering::SeqCst);
        }
        self.engine.acknowledge();
    }
}

const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

fn rest(bench: &Bench, timeout: Duration) -> bool {
    bench.driver.transport.device().rest(Instant::now() + timeout)
}

fn with_late(turns: &Arc<AtomicUsize>) -> Bench {
    let bench = Bench::with(EngineKind::Threads);
    bench.file.write_all_at(&pattern(6, 64 << 10), 0).unwrap();
    let late = Late::new(&bench.file, turns);
    bench.driver.transport.device().downcast_mut::<Device>().unwrap().engine = Box::new(late);
    bench
}

fn whole_memory(bench: &Bench) -> Vec<u8> {
    let mut bytes = vec![0; crate::virtio::testing::MEMORY_BYTES];
    bench.driver.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

#[test]
fn nothing_writes_guest_memory_while_a_disk_rests() {
    let mut bench = with_late(&Arc::new(AtomicUsize::new(3)));
    let add = |bench: &mut Bench| {
        let data = bench.driver.queue(0).writable(16 << 10);
        bench.add(IN, 32, Some(data))
    };
    let sent: Vec<Sent> = (0..6).map(|_| add(&mut bench)).collect();
    bench.driver.kick(0);
    bench.driver.run();
    assert!(bench.driver.queue(0).take_used().is_empty(), "the disk is slow");
    // For this one no turn is left.
    let next = add(&mut bench);
    bench.driver.kick(0);
    assert!(rest(&bench, LONG));
    let memory = whole_memory(&bench);
    let used: Vec<u32> = bench.driver.queue(0).take_used().iter().map(|used| used.0).collect();
    assert_eq!(used.len(), 6, "what was begun was given back, and nothing else begun");
    for sent in sent {
        assert!(used.contains(&sent.head.into()));
        let data = bench.driver.queue(0).read(sent.data.unwrap());
        assert_eq!(data, pattern(6, 64 << 10)[16 << 10..32 << 10]);
    }
    assert!(bench.driver.take_interrupt());
    assert!(rest(&bench, LONG));
    assert!(whole_memory(&bench) == memory, "memory changed");
    bench.driver.run();
    assert!(rest(&bench, LONG));
    assert_eq!(bench.finish(next), DONE);
}

#[test]
fn disk_that_does_not_come_to_rest_in_time_goes_on() {
    let turns = Arc::new(AtomicUsize::new(usize::MAX));
    let mut bench = with_late(&turns);
    let data = bench.driver.queue(0).writable(512);
    let sent = bench.add(IN, 0, Some(data));
    bench.driver.kick(0);
    bench.driver.run();
    assert!(!rest(&bench, SOON));
    assert!(bench.driver.queue(0).take_used().is_empty());
    turns.store(0, Ordering::SeqCst);
    assert!(rest(&bench, LONG));
    assert_eq!(bench.finish(sent), DONE);
}

#[test]
fn disks_of_every_engine_rest_and_go_on() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        assert!(rest(&bench, LONG), "nothing is at work");
        for round in 0..20 {
            let bytes = pattern(round, 64 << 10);
            let data = bench.driver.queue(0).readable(&bytes);
            // All to one place: a disk may do them in any order.
            let sent: Vec<Sent> = (0..100).map(|_| bench.add(OUT, 100, Some(data))).collect();
            bench.driver.kick(0);
            bench.driver.run();
            assert!(rest(&bench, LONG));
            for sent in sent {
                assert_eq!(bench.finish(sent), DONE);
            }
            assert!(bench.content(100, 64 << 10) == bytes, "round {round} is not on the disk");
        }
        bench.driver.write(0x070, 0);
        assert!(rest(&bench, LONG), "no driver is there");
    }
}

#[test]
fn read_only_disk_is_not_changed_whatever_the_driver_tries() {
    for engine in engines() {
        let mut file = image(SECTORS);
        file.write_all(&pattern(9, 4096)).unwrap();
        let mut bench = Bench::new(&Config { engine, read_only: true, ..config() }, file);
        let offered = bench.driver.offered();
        assert_ne!(offered & feature::READ_ONLY, 0);
        assert_eq!(offered & (feature::DISCARD | feature::WRITE_ZEROES | feature::FLUSH), 0);
        assert_eq!(bench.write(0, &pattern(1, 512)), IO_ERROR);
        assert_eq!(bench.range(DISCARD, (0, 8, 0)), IO_ERROR);
        assert_eq!(bench.range(WRITE_ZEROES, (0, 8, 1)), IO_ERROR);
        assert_eq!(bench.driver.counter("refused"), 3);
        assert_eq!(bench.content(0, 4096), pattern(9, 4096));
        assert_eq!(bench.read(0, 4096), Ok(pattern(9, 4096)));
    }
}

#[test]
fn discarded_space_is_given_up_and_zeroes_are_zeroes() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        let bytes = pattern(5, 512 << 10);
        assert_eq!(bench.write(0, &bytes), DONE);
        bench.file.sync_all().unwrap();
        let blocks = bench.file.metadata().unwrap().blocks();
        assert_eq!(bench.range(DISCARD, (0, 512, 0)), DONE);
        let left = bench.file.metadata().unwrap().blocks();
        assert!(left < blocks, "{left} of {blocks} blocks are left");
        assert_eq!(bench.content(0, 512 * 512), vec![0; 512 * 512]);
        assert_eq!(bench.range(WRITE_ZEROES, (513, 3, 0)), DONE);
        assert_eq!(bench.content(513, 1536), vec![0; 1536]);
        assert_eq!(bench.range(WRITE_ZEROES, (600, 8, 1)), DONE);
        assert_eq!(bench.content(600, 4096), vec![0; 4096]);
        assert_eq!(bench.content(512, 512), bytes[512 * 512..513 * 512]);
        assert_eq!(bench.content(516, 512), bytes[516 * 512..517 * 512]);
        assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * 512);
        assert_eq!(bench.driver.counter("discards"), 1);
        assert_eq!(bench.driver.counter("write_zeroes"), 2);
    }
}

#[test]
fn zeroes_are_written_to_a_file_that_has_no_other_way() {
    // tmpfs punches holes and knows no FALLOC_FL_ZERO_RANGE.
    for engine in engines() {
        let file = File::from(memfd_create("disk", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all_at(&pattern(1, 4 << 20), 0).unwrap();
        let mut bench = Bench::new(&Config { engine, ..config() }, file);
        assert_eq!(bench.range(WRITE_ZEROES, (1, 5001, 0)), DONE);
        assert_eq!(bench.content(0, 512), pattern(1, 512));
        assert_eq!(bench.content(1, 5001 * 512), vec![0; 5001 * 512]);
        assert_eq!(bench.content(5002, 512), pattern(1, 4 << 20)[5002 * 512..5003 * 512]);
    }
}

#[test]
fn file_that_refuses_writes_is_an_error_of_the_disk() {
    for engine in engines() {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("disk", flags).unwrap());
        file.set_len(8192).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        let mut bench = Bench::new(&Config { engine, ..config() }, file);
        assert_eq!(bench.write(0, &pattern(1, 512)), IO_ERROR);
        assert_eq!(bench.range(WRITE_ZEROES, (0, 1, 1)), IO_ERROR);
        assert_eq!(bench.read(0, 512), Ok(vec![0; 512]));
        assert_eq!(bench.driver.counter("errors"), 2);
    }
}

#[test]
fn file_cut_short_by_somebody_else_is_an_error_beyond_its_end() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        bench.file.set_len(1000).unwrap();
        assert_eq!(bench.read(0, 512), Ok(vec![0; 512]));
        assert_eq!(bench.read(1, 512), Err(IO_ERROR), "half of it is there");
        assert_eq!(bench.read(100, 4096), Err(IO_ERROR));
        assert_eq!(bench.driver.counter("errors"), 2);
    }
}

#[test]
fn serial_number_and_configuration_are_readable() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        let id = bench.driver.queue(0).writable(20);
        assert_eq!(bench.ask(GET_ID, 0, Some(id)), DONE);
        assert_eq!(bench.driver.queue(0).read(id), *b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(u64::from_le_bytes(bench.driver.config(0)), SECTORS);
        assert_eq!(u32::from_le_bytes(bench.driver.config(8)), SIZE_MAX);
        assert_eq!(u32::from_le_bytes(bench.driver.config(12)), SEG_MAX);
        assert_eq!(u32::from_le_bytes(bench.driver.config(20)), 512);
        assert_eq!(u32::from_le_bytes(bench.driver.config(40)), MAX_DISCARD_SEG);
        assert_eq!(bench.driver.config::<8>(60), [0; 8]);
        assert_eq!(bench.driver.config::<4>(0xe00), [0; 4]);
    }
}

#[test]
fn reset_in_the_middle_leaves_nothing_behind() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        for round in 0..20 {
            for index in 0..40 {
                let data = bench.driver.queue(0).readable(&pattern(7, 16 << 10));
                bench.add(OUT, index * 32, Some(data));
            }
            bench.driver.kick(0);
            if round % 2 == 0 {
                bench.driver.run();
            }
            bench.driver.write(0x070, 0);
            // As if it were memory of something else by now.
            let taken = bench.driver.queue(0).take_used().len();
            assert!(taken <= 40);
            for _ in 0..3 {
                bench.driver.run();
                assert!(bench.driver.queue(0).take_used().is_empty(), "used after the reset");
            }
            assert_eq!(bench.driver.read(0x060), 0, "an interrupt after the reset");
            bench.start();
            bench.used.clear();
            std::thread::yield_now();
            bench.driver.run();
            assert!(bench.driver.queue(0).take_used().is_empty(), "the next driver gets them");
        }
        assert_eq!(bench.write(0, &pattern(8, 512)), DONE);
        assert_eq!(bench.read(0, 512), Ok(pattern(8, 512)));
    }
}

#[test]
fn device_may_be_dropped_with_requests_in_flight() {
    for engine in engines() {
        for _ in 0..20 {
            let mut bench = Bench::with(engine);
            for index in 0..40 {
                let data = bench.driver.queue(0).writable(16 << 10);
                bench.add(IN, index * 32, Some(data));
            }
            bench.driver.kick(0);
            bench.driver.run();
        }
    }
}

#[test]
fn ring_that_lies_breaks_the_device_until_it_is_reset() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        let data = bench.driver.queue(0).writable(512);
        bench.add(IN, 0, Some(data));
        bench.driver.queue(0).publish(9999);
        bench.driver.kick(0);
        bench.driver.run();
        assert_ne!(bench.driver.status() & 0x40, 0, "DEVICE_NEEDS_RESET");
        bench.driver.queue(0).take_used();
        bench.add(IN, 0, Some(data));
        bench.driver.kick(0);
        bench.driver.run();
        assert!(bench.driver.queue(0).take_used().is_empty());
        bench.start();
        assert_eq!(bench.read(0, 512), Ok(vec![0; 512]));
    }
}

#[test]
fn driver_that_never_waits_gets_all_of_it_back() {
    for engine in engines() {
        let mut bench = Bench::with(engine);
        let mut back = 0;
        for round in 0..20 {
            let data = bench.driver.queue(0).readable(&pattern(round, 4096));
            let sent = bench.add(OUT, 0, Some(data));
            // The same chain over and over.
            for _ in 0..100 {
                bench.driver.queue(0).publish(sent.head);
            }
            bench.driver.kick(0);
            let wanted = (usize::from(round) + 1) * 101;
            while back < wanted {
                bench.driver.run();
                let used = bench.driver.queue(0).take_used().len();
                back += used;
                if used == 0 {
                    assert!(bench.driver.wait(), "{back} of {wanted}");
                }
            }
        }
        assert_eq!(bench.driver.counter("writes"), 20 * 101);
    }
}

#[test]
fn full_queue_of_bad_chains_does_not_make_the_device_deaf() {
    let mut bench = Bench::with(EngineKind::Threads);
    bench.driver.start(EVENT_IDX | feature::FLUSH, 4);
    for _ in 0..4 {
        let status = bench.driver.queue(0).writable(1);
        bench.driver.queue(0).add(&[status]);
    }
    bench.driver.kick(0);
    bench.driver.run();
    assert_eq!(bench.driver.queue(0).take_used().len(), 4);
    assert_eq!(bench.driver.queue(0).avail_event(), 4, "it wants to be told of the next");
}

fn operations(size: u64, refill_ms: u64) -> Limits {
    let operations = Limit { size, one_time_burst: 0, refill_ms };
    Limits { bytes: None, operations: Some(operations) }
}

#[test]
fn limited_disk_goes_on_by_its_timer() {
    for engine in engines() {
        let limits = operations(1, 30);
        let mut bench = Bench::new(&Config { engine, limits, ..config() }, image(SECTORS));
        let sent: Vec<Sent> = (0..4).map(|_| bench.add(FLUSH, 0, None)).collect();
        for sent in sent {
            assert_eq!(bench.finish(sent), DONE);
        }
        assert!(bench.driver.counter("throttled") >= 3);
    }
}

#[test]
fn new_limits_set_a_waiting_disk_free() {
    for engine in engines() {
        let limits = operations(1, 1_000_000_000);
        let mut bench = Bench::new(&Config { engine, limits, ..config() }, image(SECTORS));
        assert_eq!(bench.ask(FLUSH, 0, None), DONE);
        let sent = bench.add(FLUSH, 0, None);
        bench.driver.kick(0);
        bench.driver.run();
        assert!(bench.driver.queue(0).take_used().is_empty());
        {
            let mut device = bench.driver.transport.device();
            let device = device.downcast_mut::<Device>().unwrap();
            device.set_limits(&Limits::default()).unwrap();
        }
        assert_eq!(bench.finish(sent), DONE);
        assert_eq!(bench.read(0, 4096), Ok(vec![0; 4096]));
    }
}

#[test]
fn writes_are_stable_for_a_driver_that_cannot_flush() {
    assert!(needs_stable_writes(false, feature::DISCARD));
    assert!(!needs_stable_writes(false, feature::FLUSH));
    assert!(!needs_stable_writes(true, 0));
    for engine in engines() {
        let mut bench = Bench::with(engine);
        bench.driver.start(INDIRECT_DESC, 128);
        assert_eq!(bench.write(1, &pattern(4, 4096)), DONE);
        assert_eq!(bench.range(WRITE_ZEROES, (2, 1, 0)), DONE);
        assert_eq!(bench.content(1, 512), pattern(4, 4096)[..512]);
        assert_eq!(bench.content(2, 512), vec![0; 512]);
    }
}

/// `HUSK_TEST_BLOCK_DEVICE` names one of at least 2 MiB, whose content is lost.
#[test]
fn block_device_of_the_host_is_a_disk() {
    let Some(path) = std::env::var_os("HUSK_TEST_BLOCK_DEVICE") else {
        println!("SKIPPED: HUSK_TEST_BLOCK_DEVICE names no block device that may be overwritten");
        return;
    };
    for engine in engines() {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut bench = Bench::new(&Config { engine, ..config() }, file);
        let sectors = u64::from_le_bytes(bench.driver.config(0));
        assert!(sectors >= SECTORS, "{sectors} sectors");
        let bytes = pattern(3, 64 << 10);
        assert_eq!(bench.write(sectors - 128, &bytes), DONE);
        assert_eq!(bench.read(sectors - 128, 64 << 10), Ok(bytes.clone()));
        assert_eq!(bench.write(sectors - 1, &bytes[..1024]), IO_ERROR);
        assert_eq!(bench.ask(FLUSH, 0, None), DONE);
        assert_eq!(bench.range(WRITE_ZEROES, (sectors - 8, 8, 1)), DONE);
        assert_eq!(bench.range(WRITE_ZEROES, (sectors - 16, 4, 0)), DONE);
        assert_eq!(bench.range(DISCARD, (sectors - 128, 64, 0)), DONE);
        assert_eq!(bench.content(sectors - 8, 4096), vec![0; 4096]);
        assert_eq!(bench.content(sectors - 16, 2048), vec![0; 2048]);
        assert_eq!(bench.content(sectors - 12, 2048), bytes[116 * 512..120 * 512]);
    }
}

fn refusal(config: &Config, file: impl Into<OwnedFd>) -> String {
    let error = Device::new(config, file.into(), &free()).err().unwrap();
    format!(
        "{error}: {}",
        std::error::Error::source(&error).map_or(String::new(), ToString::to_string)
    )
}

#[test]
fn what_cannot_be_a_disk_is_refused_in_one_line() {
    let folder = File::open("/").unwrap();
    let message = refusal(&Config { read_only: true, ..config() }, folder);
    assert_eq!(message, "disk root: use a folder as a disk: it has to be a file or a block device");
    for serial in ["", "with space", "longer-than-twenty-letters", "ä"] {
        let config = Config { serial: serial.to_owned(), ..config() };
        assert!(refusal(&config, image(1)).contains("printable"), "{serial}");
    }
}

#[test]
fn config_is_read_strictly() {
    let good = r#"{"file": 7, "serial": "root"}"#;
    let config: Config = serde_json::from_str(good).unwrap();
    assert_eq!(config.engine, EngineKind::Auto);
    let whole = r#"{"file": 7, "serial": "r", "read_only": true, "disposable": true,
        "engine": "io_uring", "limits": {"bytes": {"size": 1, "refill_ms": 1}}}"#;
    assert_eq!(serde_json::from_str::<Config>(whole).unwrap().engine, EngineKind::IoUring);
    let unknown = r#"{"file": 7, "serial": "root", "format": "qcow2"}"#;
    assert!(serde_json::from_str::<Config>(unknown).is_err());
}

#[test]
fn threads_are_confined_before_they_work_or_not_at_all() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let on_thread: OnThread = Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let device = Device::new(&config(), image(1).into(), &on_thread).unwrap();
    assert_eq!((seen.load(Ordering::SeqCst), device.engine_name()), (4, "threads"));
    let refuse: OnThread = Arc::new(|| Err(io::Error::other("no filter")));
    let error = Device::new(&config(), image(1).into(), &refuse).err().unwrap();
    assert_eq!(error.to_string(), "start the engine of disk root");
}

#[test]
fn ring_does_nothing_but_what_a_disk_needs() {
    // The ring of another file, opened the same way: what it is not allowed, it refuses by itself.
    match Ring::new(image(1)) {
        Ok(mut ring) => assert_eq!(ring.try_forbidden(), Some(-libc::EACCES)),
        Err(error) => println!("SKIPPED: io_uring: {error}"),
    }
}
