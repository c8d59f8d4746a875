//! Tests: chains that are and chains that are none, and rings as hostile guests write them.

use std::io::{Read, Write};

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::{
    self, Buffer, Descriptor, DriverQueue, INDIRECT, MEMORY_BYTES, NEXT, WRITE,
};

const SIZE: u16 = 16;
const LIMITS: Limits = Limits { descriptors: 8, readable: 4096, writable: 4096 };

struct Bench {
    memory: Memory,
    driver: DriverQueue,
    queue: Queue,
}

impl Bench {
    fn new(size: u16) -> Self {
        let memory = testing::memory();
        let driver = DriverQueue::new(&memory, 0, size);
        let queue = driver.device_queue();
        Self { memory, driver, queue }
    }

    /// What becomes of the next chain: what it holds and how much may be written, or why it is
    /// none.
    fn next(&mut self) -> Result<(Vec<u8>, usize), ChainError> {
        let mut result = None;
        let memory = &self.memory;
        pass(&mut self.queue, memory, |chain| {
            assert!(result.is_none(), "two chains");
            result = Some(Request::split(chain, memory, LIMITS).map(|mut request| {
                let mut bytes = Vec::new();
                request.reader.read_to_end(&mut bytes).unwrap();
                (bytes, request.writer.available_bytes())
            }));
            Served::Used(0)
        })
        .unwrap();
        result.expect("no chain")
    }

    fn table(&mut self, descriptors: &[Descriptor]) -> Buffer {
        let at = self.driver.writable(descriptors.len() * 16);
        for (index, each) in descriptors.iter().enumerate() {
            let at = GuestAddress(at.addr + index as u64 * 16);
            let words =
                u64::from(each.len) | u64::from(each.flags) << 32 | u64::from(each.next) << 48;
            self.memory.write_obj(each.addr, at).unwrap();
            self.memory.write_obj(words, GuestAddress(at.0 + 8)).unwrap();
        }
        at
    }

    /// Puts a descriptor at the front and makes it available.
    fn offer(&mut self, descriptor: Descriptor) -> Result<(Vec<u8>, usize), ChainError> {
        self.driver.write_descriptor(0, descriptor);
        self.driver.publish(0);
        self.next()
    }
}

fn at(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { addr, len, flags, next }
}

#[test]
fn a_chain_is_read_and_written_across_its_pieces() {
    let mut bench = Bench::new(SIZE);
    let [a, b] = [b"hel", b"lo!"].map(|bytes| bench.driver.readable(bytes));
    let [c, d] = [2, 3].map(|len| bench.driver.writable(len));
    bench.driver.add(&[a, b, c, d]);
    let memory = &bench.memory;
    pass(&mut bench.queue, memory, |chain| {
        let mut request = Request::split(chain, memory, LIMITS).unwrap();
        let (mut most, mut rest) = ([0; 4], [0; 2]);
        request.reader.read_exact(&mut most).unwrap();
        request.reader.read_exact(&mut rest).unwrap();
        assert_eq!((&most, &rest), (b"hell", b"o!"));
        assert!(request.reader.read_exact(&mut [0]).is_err());
        assert_eq!(request.writer.available_bytes(), 5);
        request.writer.write_all(b"1234").unwrap();
        assert_eq!(request.writer.written(), 4);
        assert!(request.writer.write_all(b"56").is_err());
        Served::Used(request.writer.written())
    })
    .unwrap();
    assert_eq!(bench.driver.take_used(), [(0, 5)]);
    assert_eq!((bench.driver.read(c), bench.driver.read(d)), (b"12".to_vec(), b"345".to_vec()));
}

#[test]
fn buffers_of_no_bytes_are_fine() {
    let mut bench = Bench::new(SIZE);
    let [a, b, c] = [&b""[..], b"x", b""].map(|bytes| bench.driver.readable(bytes));
    let d = bench.driver.writable(0);
    bench.driver.add(&[a, b, c, d]);
    assert_eq!(bench.next(), Ok((b"x".to_vec(), 0)));
    // Wherever they are.
    assert_eq!(bench.offer(at(u64::MAX, 0, 0, 0)), Ok((vec![], 0)));
}

#[test]
fn indirect_tables_are_followed_whatever_their_write_flag_says() {
    let mut bench = Bench::new(SIZE);
    let (a, b) = (bench.driver.readable(b"abc"), bench.driver.writable(9));
    bench.driver.add_indirect(&[a, b]);
    assert_eq!(bench.next(), Ok((b"abc".to_vec(), 9)));
    let table = bench.table(&[at(a.addr, 3, 0, 0)]);
    assert_eq!(bench.offer(at(table.addr, 16, INDIRECT | WRITE, 0)), Ok((b"abc".to_vec(), 0)));
}

#[test]
fn indirect_tables_that_are_none_are_refused() {
    let mut bench = Bench::new(SIZE);
    let text = bench.driver.readable(b"abc");
    let inner = bench.table(&[at(text.addr, 3, 0, 0)]);
    let nested = bench.table(&[at(inner.addr, 16, INDIRECT, 0)]);
    let looped = bench.table(&[at(text.addr, 3, NEXT, 1), at(text.addr, 3, NEXT, 0)]);
    let leaving = bench.table(&[at(text.addr, 3, NEXT, 7)]);
    let end = MEMORY_BYTES as u64;
    for (addr, len) in [
        (nested.addr, 16),
        (looped.addr, 32),
        (leaving.addr, 16),
        (inner.addr, 0),
        (inner.addr, 15),
        (inner.addr, 17),
        (inner.addr, 16 << 16),
        (inner.addr, u32::MAX - 15),
        (end, 16),
        (end - 8, 16),
        (u64::MAX - 7, 16),
    ] {
        let descriptor = at(addr, len, INDIRECT, 0);
        assert_eq!(bench.offer(descriptor), Err(ChainError::Broken), "{descriptor:?}");
    }
    assert_eq!(bench.offer(at(inner.addr, 16, INDIRECT, 0)), Ok((b"abc".to_vec(), 0)));
}

#[test]
fn loops_and_chains_that_leave_their_table_are_refused() {
    let mut bench = Bench::new(4);
    let memory_word = 0x100;
    assert_eq!(bench.offer(at(memory_word, 1, NEXT, 0)), Err(ChainError::Broken));
    assert_eq!(bench.offer(at(memory_word, 1, NEXT, 4)), Err(ChainError::Broken));
    assert_eq!(bench.offer(at(memory_word, 1, NEXT, u16::MAX)), Err(ChainError::Broken));
    // Two that name each other.
    bench.driver.write_descriptor(1, at(memory_word, 1, NEXT, 0));
    assert_eq!(bench.offer(at(memory_word, 1, NEXT, 1)), Err(ChainError::Broken));
}

#[test]
fn what_is_to_be_read_comes_first() {
    let mut bench = Bench::new(SIZE);
    let (a, b) = (bench.driver.readable(b"abc"), bench.driver.writable(9));
    bench.driver.add(&[b, a]);
    assert_eq!(bench.next(), Err(ChainError::Order));
}

#[test]
fn more_than_the_device_takes_is_refused() {
    let mut bench = Bench::new(SIZE);
    let one = bench.driver.readable(b"a");
    bench.driver.add(&[one; 8]);
    assert_eq!(bench.next(), Ok((b"aaaaaaaa".to_vec(), 0)));
    bench.driver.add(&[one; 9]);
    assert_eq!(bench.next(), Err(ChainError::TooLong));
    for (len, writable) in [(4097, true), (4097, false), (1 << 20, true)] {
        let buffer = Buffer { len, writable, ..one };
        bench.driver.add(&[buffer]);
        assert_eq!(bench.next(), Err(ChainError::TooLarge));
    }
    let huge = Buffer { len: u32::MAX, ..one };
    bench.driver.add(&[huge]);
    assert_eq!(bench.next(), Err(ChainError::TooLarge));
    // Lengths whose sum does not fit into 32 bits.
    bench.driver.add(&[one, huge, huge]);
    assert_eq!(bench.next(), Err(ChainError::Broken));
}

#[test]
fn buffers_outside_of_memory_are_refused() {
    let mut bench = Bench::new(SIZE);
    let end = MEMORY_BYTES as u64;
    for (addr, len) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 3, 8), (1 << 63, 1)] {
        for flags in [0, WRITE] {
            assert_eq!(bench.offer(at(addr, len, flags, 0)), Err(ChainError::Bounds), "{addr:#x}");
        }
    }
    assert_eq!(bench.offer(at(end - 1, 1, WRITE, 0)), Ok((vec![], 1)));
}

#[test]
fn a_queue_of_one_goes_round_and_its_index_wraps() {
    let mut bench = Bench::new(1);
    bench.driver.skip_to(u16::MAX - 2, &mut bench.queue);
    for byte in 0..6 {
        let buffer = bench.driver.readable(&[byte]);
        bench.driver.add(&[buffer]);
        assert_eq!(bench.next(), Ok((vec![byte], 0)));
        assert_eq!(bench.driver.take_used(), [(0, 0)]);
    }
    assert_eq!(bench.driver.avail_idx(), 3);
}

#[test]
fn an_index_that_jumps_beyond_the_ring_breaks_the_queue() {
    for jump in [17, 1000, u16::MAX] {
        let mut bench = Bench::new(SIZE);
        bench.driver.set_avail_idx(jump);
        let memory = &bench.memory;
        assert!(pass(&mut bench.queue, memory, |_| panic!("a chain")).is_err());
        assert_eq!(bench.driver.take_used(), []);
    }
}

#[test]
fn a_head_outside_of_the_table_breaks_the_queue() {
    let mut bench = Bench::new(SIZE);
    bench.driver.publish(SIZE);
    let memory = &bench.memory;
    assert!(pass(&mut bench.queue, memory, |_| panic!("a chain")).is_err());
    assert_eq!(bench.driver.take_used(), []);
}

#[test]
fn a_pass_ends_after_a_full_queue_though_the_guest_goes_on() {
    let mut bench = Bench::new(4);
    let buffer = bench.driver.readable(b"a");
    let Bench { memory, driver, queue } = &mut bench;
    driver.add(&[buffer]);
    let mut served = 0;
    let outcome = pass(queue, memory, |_| {
        served += 1;
        driver.add(&[buffer]);
        Served::Used(0)
    });
    assert_eq!(outcome.unwrap(), Outcome { progress: true, notify: true, more: true });
    assert_eq!(served, 4);
}

/// A driver that kicks and looks only when it is asked to, and the device as its transport calls
/// it.
struct Sleepy {
    memory: Memory,
    driver: DriverQueue,
    queue: Queue,
    event_idx: bool,
    buffer: Buffer,
    outstanding: u16,
    kicked: bool,
    interrupted: bool,
}

impl Sleepy {
    fn new(size: u16, start: u16, event_idx: bool) -> Self {
        let memory = testing::memory();
        let mut driver = DriverQueue::new(&memory, 0, size);
        let mut queue = driver.config().activate(&memory, event_idx).unwrap().unwrap();
        driver.skip_to(start, &mut queue);
        let buffer = driver.readable(b"a");
        driver.set_used_event(start);
        // As every queue gets one turn when its device becomes active.
        let (outstanding, kicked, interrupted) = (0, true, false);
        Self { memory, driver, queue, event_idx, buffer, outstanding, kicked, interrupted }
    }

    /// Adds as many chains as there is room for, and kicks if the device wants to know. virtio 1.2
    /// §2.7.10.
    fn add(&mut self, count: u16) {
        let before = self.driver.avail_idx();
        for _ in 0..count.min(self.queue.size() - self.outstanding) {
            self.driver.add(&[self.buffer]);
            self.outstanding += 1;
        }
        let now = self.driver.avail_idx();
        let passed = now.wrapping_sub(self.driver.avail_event()).wrapping_sub(1);
        self.kicked |= now != before && (!self.event_idx || passed < now.wrapping_sub(before));
    }

    /// A turn of the device if it wants one, with `left` work, while the driver adds.
    fn turn(&mut self, left: u64, mut meanwhile: u16) {
        if !std::mem::take(&mut self.kicked) {
            return;
        }
        let memory = self.memory.clone();
        let mut queue = std::mem::take(&mut self.queue);
        let size = queue.size();
        let (driver, outstanding) = (&mut self.driver, &mut self.outstanding);
        let mut added = Vec::new();
        let outcome = turn(&mut queue, &memory, left, |_| {
            if meanwhile > 0 && *outstanding < size {
                meanwhile -= 1;
                *outstanding += 1;
                let before = driver.avail_idx();
                driver.add(&[self.buffer]);
                added.push((before, driver.avail_event()));
            }
            (Served::Used(0), 1)
        });
        self.queue = queue;
        let Outcome { notify, more, .. } = outcome.unwrap();
        let wanted = |&(before, event): &(u16, u16)| !self.event_idx || before == event;
        self.kicked |= more || added.iter().any(wanted);
        self.interrupted |= notify;
    }

    /// What an interrupt makes the driver do: look, ask for the next interrupt, and look again.
    fn look(&mut self) {
        if !std::mem::take(&mut self.interrupted) {
            return;
        }
        loop {
            let seen = u16::try_from(self.driver.take_used().len()).unwrap();
            self.outstanding -= seen;
            self.driver.set_used_event(self.queue.next_used());
            if seen == 0 {
                return;
            }
        }
    }
}

/// A descriptor that means harm, or none.
fn hostile() -> impl Strategy<Value = Descriptor> {
    let base = testing::QUEUE_STRIDE;
    let addr = prop_oneof![
        4 => base..base + 0x2_0000,
        1 => (0..16u64).prop_map(|row| testing::QUEUE_STRIDE + row * 16),
        1 => Just(MEMORY_BYTES as u64 - 8),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![4 => 0..64u32, 2 => (0..20u32).prop_map(|n| n * 16), 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0..8u16, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..20u16, 1 => any::<u16>()];
    (addr, len, flags, next).prop_map(|(addr, len, flags, next)| at(addr, len, flags, next))
}

proptest! {
    #[test]
    fn hostile_rings_are_survived_and_each_chain_comes_back_once(
        log_size in 0..5u32,
        table in prop::collection::vec(hostile(), 16),
        start: u16,
        rounds in prop::collection::vec((0..40u16, prop::collection::vec(0..18u16, 16)), 1..6),
    ) {
        let size = 1u16 << log_size;
        let mut bench = Bench::new(size);
        bench.driver.skip_to(start, &mut bench.queue);
        for (added, heads) in rounds {
            for (index, descriptor) in (0..size).zip(&table) {
                bench.driver.write_descriptor(index, *descriptor);
            }
            let before = bench.driver.avail_idx();
            for head in heads.iter().take(usize::from(size)) {
                bench.driver.publish(*head);
            }
            bench.driver.set_avail_idx(before.wrapping_add(added));
            let mut served: Vec<(u32, u32)> = Vec::new();
            let (mut broken, mut passes) = (false, 0);
            let used_before = bench.queue.next_used();
            loop {
                let memory = &bench.memory;
                let passed = pass(&mut bench.queue, memory, |chain| {
                    let head = u32::from(chain.head_index());
                    let written = Request::split(chain, memory, LIMITS).map_or(0, |mut request| {
                        let mut bytes = Vec::new();
                        request.reader.read_to_end(&mut bytes).unwrap();
                        request.writer.write_all(&bytes).unwrap_or_default();
                        request.writer.written()
                    });
                    served.push((head, written));
                    Served::Used(written)
                });
                passes += 1;
                prop_assert!(passes < 100, "the queue never ends");
                match passed {
                    Ok(outcome) if outcome.more => {}
                    Ok(_) => break,
                    Err(_) => {
                        broken = true;
                        break;
                    }
                }
            }
            let used = bench.queue.next_used().wrapping_sub(used_before);
            prop_assert_eq!(usize::from(used), served.len());
            if broken {
                break;
            }
        }
    }

    /// Whatever the order of things: when nobody has a turn to come, everything was done, and the
    /// driver knows.
    #[test]
    fn no_wake_up_is_lost(
        log_size in 0..5u32,
        start: u16,
        event_idx: bool,
        steps in prop::collection::vec((0..3u8, 0..20u16, 0..10u64), 1..60),
    ) {
        let mut sleepy = Sleepy::new(1 << log_size, start, event_idx);
        for (step, count, left) in steps {
            match step {
                0 => sleepy.add(count),
                1 => sleepy.turn(left + 1, count / 4),
                _ => sleepy.look(),
            }
        }
        for _ in 0..100 {
            sleepy.turn(3, 0);
            sleepy.look();
        }
        prop_assert!(!sleepy.kicked && !sleepy.interrupted, "the device is never done");
        prop_assert_eq!(sleepy.outstanding, 0);
    }

    #[test]
    fn good_chains_carry_their_bytes(
        readable in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
        writable in prop::collection::vec(0..40usize, 0..4),
        answer in prop::collection::vec(any::<u8>(), 0..160),
        steps in prop::collection::vec(1..30usize, 1..20),
        indirect: bool,
    ) {
        prop_assume!(readable.len() + writable.len() > 0);
        let mut bench = Bench::new(SIZE);
        let mut buffers: Vec<Buffer> =
            readable.iter().map(|bytes| bench.driver.readable(bytes)).collect();
        buffers.extend(writable.iter().map(|&len| bench.driver.writable(len)));
        if indirect {
            bench.driver.add_indirect(&buffers);
        } else {
            bench.driver.add(&buffers);
        }
        let memory = &bench.memory;
        let mut read = Vec::new();
        let mut written = 0;
        pass(&mut bench.queue, memory, |chain| {
            let mut request = Request::split(chain, memory, LIMITS).unwrap();
            for step in steps.iter().cycle() {
                let mut piece = vec![0; *step];
                let len = request.reader.read(&mut piece).unwrap();
                read.extend_from_slice(&piece[..len]);
                let end = answer.len().min(written + step);
                let len = request.writer.write(&answer[written..end]).unwrap();
                written += len;
                let full = written == answer.len() || request.writer.available_bytes() == 0;
                if request.reader.available_bytes() == 0 && full {
                    break;
                }
            }
            Served::Used(request.writer.written())
        }).unwrap();
        prop_assert_eq!(read, readable.concat());
        let there: Vec<u8> = buffers[readable.len()..].iter()
            .flat_map(|&buffer| bench.driver.read(buffer)).collect();
        prop_assert_eq!(written, answer.len().min(there.len()));
        prop_assert_eq!(&there[..written], &answer[..written]);
        prop_assert!(there[written..].iter().all(|&byte| byte == 0));
    }
}
