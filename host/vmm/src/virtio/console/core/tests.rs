//! Tests: both queues as guests use them.

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::{self, Buffer, Descriptor, DriverQueue, MEMORY_BYTES};

struct Bench {
    memory: Memory,
    driver: DriverQueue,
    queue: Queue,
    numbers: Numbers,
}

impl Bench {
    fn new() -> Self {
        let memory = testing::memory();
        let driver = DriverQueue::new(&memory, 0, QUEUE_SIZE);
        let queue = driver.device_queue();
        Self { memory, driver, queue, numbers: Numbers::default() }
    }

    fn transmit(&mut self, output: &mut impl Write) -> Outcome {
        transmit(&mut self.queue, &self.memory, &mut self.numbers, output).unwrap()
    }

    fn receive(&mut self, input: &mut impl Read) -> Outcome {
        receive(&mut self.queue, &self.memory, &mut self.numbers, input).unwrap()
    }
}

/// Takes a few bytes at a time, and no more than there is room for.
struct Narrow(Vec<u8>, usize);

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(3).min(self.1);
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.1 -= len;
        self.0.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_the_guest_writes_comes_out_in_order() {
    let mut bench = Bench::new();
    let [a, b, c] = [&b"hello"[..], b", ", b"world"].map(|text| bench.driver.readable(text));
    bench.driver.add(&[a, b]);
    bench.driver.add_indirect(&[c]);
    let mut output = Vec::new();
    assert!(bench.transmit(&mut output).notify);
    assert_eq!(output, b"hello, world");
    assert_eq!(bench.driver.take_used(), [(0, 0), (2, 0)]);
}

#[test]
fn what_the_host_does_not_take_is_dropped_and_counted_and_the_guest_goes_on() {
    let mut bench = Bench::new();
    let text = bench.driver.readable(b"0123456789");
    bench.driver.add(&[text]);
    bench.driver.add(&[text]);
    let mut output = Narrow(Vec::new(), 7);
    bench.transmit(&mut output);
    assert_eq!(output.0, b"0123456");
    assert_eq!(bench.driver.take_used().len(), 2);
    assert_eq!((bench.numbers.written_bytes, bench.numbers.dropped_bytes), (7, 13));
}

#[test]
fn a_flood_takes_turns() {
    let mut bench = Bench::new();
    let text = bench.driver.readable(&[b'x'; MAX_WRITE_LEN as usize]);
    for _ in 0..10 {
        bench.driver.add(&[text]);
    }
    let (mut output, mut turns) = (Vec::new(), 1);
    while bench.transmit(&mut output).more {
        turns += 1;
    }
    assert_eq!((turns, output.len()), (3, 10 * MAX_WRITE_LEN as usize));
}

#[test]
fn what_the_host_writes_goes_to_buffers_as_they_come() {
    let mut bench = Bench::new();
    let mut input = &b"hello world"[..];
    assert_eq!(bench.receive(&mut input), Outcome::default());
    let [a, b, c] = [5, 3, 100].map(|len| bench.driver.writable(len));
    bench.driver.add(&[a]);
    bench.driver.add(&[b, c]);
    bench.receive(&mut input);
    assert_eq!(bench.driver.take_used(), [(0, 5), (1, 6)]);
    assert_eq!((bench.driver.read(a), bench.driver.read(b)), (b"hello".into(), b" wo".into()));
    assert_eq!(bench.driver.read(c)[..4], *b"rld\0");
    // Nothing left: a buffer stays with the device.
    bench.driver.add(&[a]);
    assert!(!bench.receive(&mut input).progress);
    assert_eq!(bench.driver.take_used(), []);
    bench.receive(&mut &b"!"[..]);
    assert_eq!(bench.driver.take_used(), [(3, 1)]);
}

#[test]
fn chains_that_are_none_come_back_and_are_counted_both_ways() {
    let mut bench = Bench::new();
    let (text, room) = (bench.driver.readable(b"abc"), bench.driver.writable(8));
    let outside = Buffer { addr: MEMORY_BYTES as u64 - 4, len: 8, writable: false };
    bench.driver.add(&[room]);
    bench.driver.add(&[text, outside]);
    bench.driver.add(&[Buffer { len: MAX_WRITE_LEN + 1, ..text }]);
    let mut output = Vec::new();
    bench.transmit(&mut output);
    assert_eq!((bench.numbers.malformed, &output[..]), (3, &b""[..]));
    bench.driver.take_used();
    bench.driver.add(&[text]);
    bench.driver.add(&[Buffer { writable: true, ..outside }]);
    bench.driver.add(&[Buffer { len: 0, ..room }]);
    bench.driver.add(&[room]);
    bench.receive(&mut &b"xy"[..]);
    let lengths: Vec<u32> = bench.driver.take_used().iter().map(|used| used.1).collect();
    assert_eq!(lengths, [0, 0, 0, 2]);
    assert_eq!(bench.numbers.malformed, 6);
}

proptest! {
    #[test]
    fn any_table_is_survived(
        words in prop::collection::vec((0..0x20_0000u64, 0..0x1_1000u32, 0..8u16, 0..70u16), 64),
        sends: bool,
    ) {
        let mut bench = Bench::new();
        for (index, (addr, len, flags, next)) in (0..).zip(words) {
            bench.driver.write_descriptor(index, Descriptor { addr, len, flags, next });
            bench.driver.publish(index);
        }
        let Bench { memory, queue, numbers, .. } = &mut bench;
        let mut turns = 0;
        loop {
            let passed = match sends {
                true => transmit(queue, memory, numbers, &mut io::sink()),
                false => receive(queue, memory, numbers, &mut io::repeat(b'x')),
            };
            // It may break its own rings.
            if !passed.is_ok_and(|outcome| outcome.more) {
                break;
            }
            turns += 1;
            prop_assert!(turns < 1000);
        }
    }
}
