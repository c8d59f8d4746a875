//! The queue against a driver, honest and hostile, with an executor that tests control.

use super::*;
use crate::virtio::testing::{self as driver, Buffer, Descriptor, DriverQueue, INDIRECT, NEXT};

const DISK: Disk = Disk {
    shape: Shape { sectors: 64, read_only: false },
    id: *b"serial-of-20-letters",
    disposable: false,
};
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

struct Fake {
    room: usize,
    admitted: Vec<u64>,
    refuses: bool,
    started: Vec<(Pending, Operation)>,
}

impl Executor for Fake {
    fn has_room(&mut self) -> bool {
        self.started.len() < self.room
    }

    fn admits(&mut self, bytes: u64) -> bool {
        self.admitted.push(bytes);
        !self.refuses
    }

    fn start(&mut self, pending: Pending, operation: Operation) {
        self.started.push((pending, operation));
    }
}

struct Bench {
    memory: Memory,
    driver: DriverQueue,
    queue: Queue,
    counts: Counts,
    fake: Fake,
    disk: Disk,
}

impl Bench {
    fn new(size: u16) -> Self {
        let memory = driver::memory();
        let driver = DriverQueue::new(&memory, 0, size);
        let queue = driver.device_queue();
        let fake = Fake { room: 128, admitted: Vec::new(), refuses: false, started: Vec::new() };
        Self { memory, driver, queue, counts: Counts::default(), fake, disk: DISK }
    }

    fn header(&mut self, kind: u32, sector: u64) -> Buffer {
        let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.driver.readable(&bytes)
    }

    /// Adds a request; where its status is, which says 0xee.
    fn add(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> Buffer {
        let header = self.header(kind, sector);
        let status = self.status();
        self.driver.add(&[&[header], data, &[status]].concat());
        status
    }

    fn status(&mut self) -> Buffer {
        let status = self.driver.writable(1);
        self.memory.write_obj(0xee_u8, GuestAddress(status.addr)).unwrap();
        status
    }

    fn take(&mut self) -> Result<Outcome, QueueError> {
        take(&mut self.queue, &self.memory, &self.disk, &mut self.counts, &mut self.fake)
    }

    fn complete(&mut self, answer: Answer) -> Outcome {
        let done = self.fake.started.drain(..).map(|(pending, _)| (pending, answer));
        complete(&mut self.queue, &self.memory, &mut self.counts, done).unwrap()
    }

    fn byte(&self, status: Buffer) -> u8 {
        self.memory.read_obj(GuestAddress(status.addr)).unwrap()
    }

    fn count(&self, name: &str) -> u64 {
        self.counts.counters()[name]
    }
}

#[test]
fn request_is_taken_and_given_back_when_it_is_done() {
    let mut bench = Bench::new(16);
    let data = bench.driver.writable(1024);
    let status = bench.add(IN, 3, &[data]);
    let outcome = bench.take().unwrap();
    assert!(!outcome.progress && !outcome.notify, "nothing is done yet");
    assert_eq!(bench.fake.admitted, [1024]);
    assert_eq!(bench.byte(status), 0xee);
    assert!(bench.driver.take_used().is_empty());
    assert!(bench.complete(Answer::Done).notify);
    assert_eq!(bench.driver.take_used(), [(0, 1025)]);
    assert_eq!(bench.byte(status), 0);
    assert_eq!((bench.count("reads"), bench.count("read_bytes")), (1, 1024));
}

#[test]
fn failure_is_counted_and_moves_no_bytes() {
    let mut bench = Bench::new(16);
    let data = bench.driver.readable(&[7; 512]);
    let status = bench.add(OUT, 3, &[data]);
    bench.take().unwrap();
    bench.complete(Answer::IoError);
    assert_eq!(bench.driver.take_used(), [(0, 1)]);
    assert_eq!(bench.byte(status), 1);
    assert_eq!((bench.count("errors"), bench.count("written_bytes")), (1, 0));
}

#[test]
fn id_is_answered_at_once() {
    let mut bench = Bench::new(16);
    let data = [bench.driver.writable(13), bench.driver.writable(7)];
    let status = bench.add(GET_ID, 0, &data);
    assert!(bench.take().unwrap().notify);
    assert_eq!(bench.driver.take_used(), [(0, 21)]);
    assert_eq!(bench.byte(status), 0);
    let id = [bench.driver.read(data[0]), bench.driver.read(data[1])].concat();
    assert_eq!(id, DISK.id);
}

#[test]
fn flush_of_a_disposable_disk_has_nothing_to_do() {
    let mut bench = Bench::new(16);
    bench.disk.disposable = true;
    let status = bench.add(FLUSH, 0, &[]);
    bench.take().unwrap();
    assert_eq!(bench.byte(status), 0);
    assert!(bench.fake.started.is_empty());
}

#[test]
fn what_is_not_admitted_stays_in_the_queue() {
    let mut bench = Bench::new(16);
    let data = bench.driver.writable(512);
    bench.add(IN, 0, &[data]);
    bench.add(FLUSH, 0, &[]);
    bench.fake.refuses = true;
    bench.take().unwrap();
    assert!(bench.fake.started.is_empty());
    assert_eq!(bench.fake.admitted, [512], "the order of requests is kept");
    bench.fake.refuses = false;
    bench.take().unwrap();
    assert_eq!(bench.fake.started.len(), 2);
}

#[test]
fn driver_that_never_waits_fills_no_more_than_there_is_room_for() {
    let mut bench = Bench::new(4);
    bench.fake.room = 6;
    for _ in 0..4 {
        bench.add(FLUSH, 0, &[]);
        bench.add(FLUSH, 0, &[]);
        bench.take().unwrap();
    }
    assert_eq!(bench.fake.started.len(), 6);
    bench.complete(Answer::Done);
    bench.take().unwrap();
    assert_eq!(bench.fake.started.len(), 2);
}

#[test]
fn bad_chains_are_given_back_counted_and_survived() {
    let mut bench = Bench::new(16);
    let short = bench.driver.readable(&[0; 15]);
    let status = bench.status();
    bench.driver.add(&[short, status]);
    let header = bench.header(IN, 0);
    bench.driver.add(&[header]);
    let data = bench.driver.writable(100);
    let odd = bench.add(IN, 0, &[data]);
    let beyond = bench.driver.writable(512);
    let beyond = bench.add(IN, 64, &[beyond]);
    assert!(bench.take().unwrap().notify);
    let lengths: Vec<u32> = bench.driver.take_used().iter().map(|used| used.1).collect();
    assert_eq!(lengths, [1, 0, 1, 1]);
    assert_eq!([status, odd, beyond].map(|status| bench.byte(status)), [1, 1, 1]);
    assert_eq!(bench.count("malformed"), 4);
    assert!(bench.fake.admitted.is_empty());
    let status = bench.add(99, 0, &[]);
    bench.take().unwrap();
    assert_eq!((bench.byte(status), bench.count("unsupported")), (2, 1));
    bench.add(FLUSH, 0, &[]);
    bench.take().unwrap();
    assert_eq!(bench.fake.started.len(), 1);
}

#[test]
fn loop_of_descriptors_is_given_back() {
    let mut bench = Bench::new(4);
    let header = bench.header(IN, 0);
    let Buffer { addr, len, .. } = header;
    for index in 0..4 {
        let next = (index + 1) % 4;
        bench.driver.write_descriptor(index, Descriptor { addr, len, flags: NEXT, next });
    }
    bench.driver.publish(0);
    bench.take().unwrap();
    assert_eq!(bench.driver.take_used(), [(0, 0)]);
    assert_eq!(bench.count("malformed"), 1);
}

#[test]
fn indirect_chains_are_read_and_bad_tables_given_back() {
    let mut bench = Bench::new(4);
    let header = bench.header(IN, 0);
    let data: Vec<Buffer> = (0..126).map(|_| bench.driver.writable(512)).collect();
    // More than the disk has, so that all of it is looked at.
    let status = bench.status();
    bench.driver.add_indirect(&[&[header], &data[..], &[status]].concat());
    bench.take().unwrap();
    assert_eq!(bench.byte(status), 1);
    let status = bench.status();
    bench.driver.add_indirect(&[&[header], &data[..64], &[status]].concat());
    bench.take().unwrap();
    assert_eq!(bench.fake.started.len(), 1);
    bench.complete(Answer::Done);
    // One descriptor too many, a table inside of a table, a table of 17 bytes.
    let status = bench.status();
    let more = [&[header], &data[..], &data[..1], &[status]].concat();
    bench.driver.add_indirect(&more);
    bench.take().unwrap();
    let table = bench.driver.writable(64).addr;
    let inner =
        [&table.to_le_bytes()[..], &16u32.to_le_bytes(), &INDIRECT.to_le_bytes(), &[0; 2]].concat();
    bench.memory.write_slice(&inner, GuestAddress(table)).unwrap();
    for len in [16, 17, 0] {
        let descriptor = Descriptor { addr: table, len, flags: INDIRECT, next: 0 };
        bench.driver.write_descriptor(0, descriptor);
        bench.driver.publish(0);
        bench.take().unwrap();
    }
    assert_eq!(bench.count("malformed"), 5);
    assert!(bench.fake.started.is_empty());
}

#[test]
fn ring_that_lies_is_an_error() {
    let mut bench = Bench::new(4);
    bench.driver.publish(4);
    assert!(bench.take().is_err(), "a head that is no descriptor");
    let mut bench = Bench::new(4);
    bench.driver.set_avail_idx(5);
    assert!(bench.take().is_err(), "more chains than descriptors");
}

#[test]
fn queue_of_one_descriptor_wraps_around() {
    let mut bench = Bench::new(1);
    bench.driver.skip_to(0xfffe, &mut bench.queue);
    let table_of = |bench: &mut Bench| {
        let header = bench.header(FLUSH, 0);
        let status = bench.status();
        bench.driver.add_indirect(&[header, status]);
        status
    };
    for _ in 0..5 {
        let status = table_of(&mut bench);
        bench.take().unwrap();
        bench.complete(Answer::Done);
        assert_eq!(bench.byte(status), 0);
        assert_eq!(bench.driver.take_used(), [(0, 1)]);
    }
}

#[test]
fn status_over_the_rings_hurts_nobody_but_the_driver() {
    let mut bench = Bench::new(4);
    let header = bench.header(IN, 0);
    let avail_idx = bench.driver.config().available + 2;
    let status = Buffer { addr: avail_idx, len: 1, writable: true };
    let data = Buffer { addr: bench.driver.config().descriptors, len: 512, writable: true };
    bench.driver.add(&[header, data, status]);
    bench.take().unwrap();
    bench.complete(Answer::IoError);
    // The index is now what the status says: 1, which was taken already.
    assert!(!bench.take().unwrap().progress);
    assert_eq!(bench.count("errors"), 1);
}

#[test]
fn one_interrupt_for_many_and_none_where_none_is_wanted() {
    let mut bench = Bench::new(8);
    bench.driver.set_avail_flags(1);
    bench.add(FLUSH, 0, &[]);
    bench.add(FLUSH, 0, &[]);
    bench.take().unwrap();
    let outcome = bench.complete(Answer::Done);
    assert!(outcome.progress && !outcome.notify);
    bench.driver.set_avail_flags(0);
    bench.queue.set_event_idx(true);
    bench.driver.set_used_event(3);
    bench.add(FLUSH, 0, &[]);
    bench.take().unwrap();
    assert!(!bench.complete(Answer::Done).notify);
    bench.add(FLUSH, 0, &[]);
    bench.take().unwrap();
    assert!(bench.complete(Answer::Done).notify);
}
