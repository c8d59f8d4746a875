//! Tests: the queue as guests use it.

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::{self, Buffer, Descriptor, DriverQueue, MEMORY_BYTES, NEXT, WRITE};

struct Bench {
    memory: Memory,
    driver: DriverQueue,
    queue: Queue,
    numbers: Numbers,
    filled: usize,
}

impl Bench {
    fn new() -> Self {
        let memory = testing::memory();
        let driver = DriverQueue::new(&memory, 0, QUEUE_SIZE);
        let queue = driver.device_queue();
        Self { memory, driver, queue, numbers: Numbers::default(), filled: 0 }
    }

    /// One turn, with a source that says 7.
    fn process(&mut self) -> Outcome {
        let filled = &mut self.filled;
        process(&mut self.queue, &self.memory, &mut self.numbers, |bytes| {
            *filled += bytes.len();
            bytes.fill(7);
            Ok(())
        })
        .unwrap()
    }
}

#[test]
fn a_buffer_in_pieces_is_filled() {
    let mut bench = Bench::new();
    let pieces = [1, 5000, 0, 30].map(|len| bench.driver.writable(len));
    bench.driver.add(&pieces);
    assert!(bench.process().notify);
    assert_eq!(bench.driver.take_used(), [(0, 5031)]);
    assert!(pieces.iter().all(|&piece| bench.driver.read(piece).iter().all(|&byte| byte == 7)));
}

#[test]
fn a_request_is_bounded_whatever_it_asks_for() {
    let mut bench = Bench::new();
    let whole = MEMORY_BYTES - 0x20_0000;
    let huge = Buffer { addr: 0x20_0000, len: u32::try_from(whole).unwrap(), writable: true };
    bench.driver.add(&[huge, huge, huge]);
    bench.process();
    assert_eq!(bench.driver.take_used(), [(0, 64 << 10)]);
    assert_eq!(bench.filled, 64 << 10);
}

#[test]
fn a_turn_is_bounded_and_the_rest_comes_with_the_next() {
    let mut bench = Bench::new();
    let buffer = bench.driver.writable(MAX_REQUEST_LEN);
    for _ in 0..6 {
        bench.driver.add(&[buffer]);
    }
    assert!(bench.process().more);
    assert_eq!(bench.driver.take_used().len(), 4);
    assert!(!bench.process().more);
    assert_eq!(bench.driver.take_used().len(), 2);
}

#[test]
fn what_is_no_buffer_comes_back_empty_and_is_counted() {
    let mut bench = Bench::new();
    let (text, empty) = (bench.driver.readable(b"abc"), bench.driver.writable(0));
    let good = bench.driver.writable(8);
    bench.driver.add(&[text]);
    bench.driver.add(&[text, good]);
    bench.driver.add(&[empty]);
    let outside = Buffer { addr: MEMORY_BYTES as u64 - 4, len: 8, writable: true };
    bench.driver.add(&[good, outside]);
    let looped = bench.driver.write_chain(&[good]);
    let Buffer { addr, len, .. } = good;
    bench
        .driver
        .write_descriptor(looped, Descriptor { addr, len, flags: WRITE | NEXT, next: looped });
    bench.driver.publish(looped);
    bench.driver.add(&[good]);
    bench.process();
    let lengths: Vec<u32> = bench.driver.take_used().iter().map(|used| used.1).collect();
    assert_eq!(lengths, [0, 0, 0, 0, 0, 8]);
    assert_eq!((bench.numbers.malformed, bench.numbers.requests), (5, 1));
}

#[test]
fn a_source_that_fails_leaves_the_buffer_empty() {
    let mut bench = Bench::new();
    let buffer = bench.driver.writable(8);
    bench.driver.add(&[buffer]);
    let Bench { memory, queue, numbers, .. } = &mut bench;
    process(queue, memory, numbers, |_| Err(io::ErrorKind::Other.into())).unwrap();
    assert_eq!(bench.driver.take_used(), [(0, 0)]);
    assert_eq!(bench.numbers.failed, 1);
}

proptest! {
    #[test]
    fn any_table_is_survived(
        words in prop::collection::vec((0..0x20_0000u64, 0..0x1_1000u32, 0..8u16, 0..70u16), 64),
    ) {
        let mut bench = Bench::new();
        for (index, (addr, len, flags, next)) in (0..).zip(words) {
            bench.driver.write_descriptor(index, Descriptor { addr, len, flags, next });
            bench.driver.publish(index);
        }
        let mut turns = 0;
        // It may break its own rings.
        while process(&mut bench.queue, &bench.memory, &mut bench.numbers, |_| Ok(()))
            .is_ok_and(|outcome| outcome.more)
        {
            turns += 1;
            prop_assert!(turns < 1000);
        }
    }
}
