//! Tests: requests, honest and hostile, beside a model that is as simple as can be.

use std::collections::BTreeSet;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::blocks::BLOCK_LEN;
use super::*;
use crate::memory::{Ram, Size};
use crate::virtio::testing::{self, Buffer, DriverQueue};

const REGION: u64 = (4 << 30) + (128 << 20);
const COUNT: u64 = 64;

const ACK: (u16, u16) = (0, 0);
const NACK: (u16, u16) = (1, 0);
const ERROR: (u16, u16) = (3, 0);
const IS_PLUGGED: (u16, u16) = (0, 0);
const IS_UNPLUGGED: (u16, u16) = (0, 1);
const IS_MIXED: (u16, u16) = (0, 2);

struct Bench {
    memory: Memory,
    driver: DriverQueue,
    queue: Queue,
    blocks: Blocks,
    numbers: Numbers,
}

fn request(kind: u16, addr: u64, count: u16) -> Vec<u8> {
    let gap = [0; 6];
    [&kind.to_le_bytes()[..], &gap, &addr.to_le_bytes(), &count.to_le_bytes(), &gap].concat()
}

fn block(index: u64) -> u64 {
    REGION + index * BLOCK_LEN
}

impl Bench {
    /// A region of 64 blocks, of which the host wants so many.
    fn new(requested: u64) -> Self {
        let ram = Ram::create_on_host(Size { mib: 32, hotplug_mib: 128 }, 160).unwrap();
        let hotplug = ram.hotplug().unwrap();
        assert_eq!(hotplug.region().guest_addr, REGION);
        hotplug.set_there_len(COUNT * BLOCK_LEN);
        Self::with_memory(requested, ram.guest().clone())
    }

    fn with_memory(requested: u64, memory: Memory) -> Self {
        let driver = DriverQueue::new(&memory, 0, 16);
        let queue = driver.device_queue();
        let mut blocks = Blocks::new(REGION, COUNT * BLOCK_LEN);
        blocks.request(requested * BLOCK_LEN);
        blocks.set_usable_len(COUNT * BLOCK_LEN);
        Self { memory, driver, queue, blocks, numbers: Numbers::default() }
    }

    fn process(&mut self) -> Vec<(u32, u32)> {
        let Self { memory, queue, blocks, numbers, .. } = self;
        process(queue, memory, blocks, numbers).unwrap();
        self.driver.take_used()
    }

    /// Type and state of the answer.
    fn ask(&mut self, kind: u16, addr: u64, count: u16) -> (u16, u16) {
        let asked = self.driver.readable(&request(kind, addr, count));
        let answer = self.driver.writable(10);
        let head = self.driver.add(&[asked, answer]);
        assert_eq!(self.process(), [(u32::from(head), 10)]);
        let bytes = self.driver.read(answer);
        assert_eq!(bytes[2..8], [0; 6]);
        (u16::from_le_bytes([bytes[0], bytes[1]]), u16::from_le_bytes([bytes[8], bytes[9]]))
    }

    /// Chains that get no answer.
    fn refuse(&mut self, buffers: &[Buffer]) {
        let before = self.blocks.clone();
        let malformed = self.numbers.malformed;
        let head = self.driver.add(buffers);
        assert_eq!(self.process(), [(u32::from(head), 0)]);
        assert_eq!(self.numbers.malformed, malformed + 1);
        assert_eq!(self.blocks, before);
    }
}

#[test]
fn blocks_are_plugged_up_to_what_the_host_wants() {
    let mut bench = Bench::new(4);
    assert_eq!(bench.ask(PLUG, block(0), 3), ACK);
    assert_eq!(bench.ask(PLUG, block(10), 2), NACK);
    assert_eq!(bench.ask(PLUG, block(10), 1), ACK);
    assert_eq!(bench.ask(PLUG, block(20), 1), NACK);
    assert_eq!(bench.blocks.plugged_len(), 4 * BLOCK_LEN);
    bench.blocks.request(2 * BLOCK_LEN);
    assert_eq!(bench.ask(PLUG, block(20), 1), NACK, "the host wants less now");
    bench.blocks.request(64 * BLOCK_LEN);
    assert_eq!(bench.ask(PLUG, block(10), 1), ERROR, "plugged already");
    assert_eq!(bench.ask(PLUG, block(2), 5), ERROR, "one of them is");
    let Numbers { requests, refused, malformed, failed } = bench.numbers;
    assert_eq!((requests, refused, malformed, failed), (2, 3, 2, 0));
}

#[test]
fn blocks_beyond_what_is_usable_are_not_plugged_whatever_the_host_wants() {
    let mut bench = Bench::new(64);
    bench.blocks.set_usable_len(4 * BLOCK_LEN);
    assert_eq!(bench.ask(PLUG, block(4), 1), NACK);
    assert_eq!(bench.ask(PLUG, block(3), 2), NACK);
    assert_eq!(bench.ask(PLUG, block(COUNT - 1), 1), NACK);
    assert_eq!(bench.ask(STATE, block(4), 1), IS_UNPLUGGED);
    assert_eq!(bench.ask(PLUG, block(0), 4), ACK);
    bench.blocks.set_usable_len(u64::MAX);
    assert_eq!(bench.blocks.usable_len(), COUNT * BLOCK_LEN, "no more than the region");
    assert_eq!(bench.ask(PLUG, block(4), 1), ACK);
    assert_eq!(bench.numbers.refused, 3);
}

#[test]
fn memory_is_needed_for_what_the_host_wants_and_for_all_that_is_plugged_or_leaving() {
    let mut bench = Bench::new(64);
    assert_eq!(bench.blocks.needed_len(), 64 * BLOCK_LEN);
    assert_eq!(bench.ask(PLUG, block(40), 20), ACK);
    bench.blocks.request(2 * BLOCK_LEN);
    assert_eq!(bench.blocks.needed_len(), 60 * BLOCK_LEN);
    assert_eq!(bench.ask(UNPLUG, block(50), 10), ACK);
    assert_eq!(bench.blocks.needed_len(), 50 * BLOCK_LEN);
    bench.blocks.unplug(&(40..50));
    assert_eq!(bench.blocks.needed_len(), 50 * BLOCK_LEN, "its pages are still to be taken");
    assert_eq!(bench.ask(UNPLUG_ALL, 0, 0), ACK);
    assert_eq!(bench.blocks.needed_len(), 2 * BLOCK_LEN);
    bench.blocks.request(0);
    assert_eq!(bench.blocks.needed_len(), 0);
}

#[test]
fn unplugged_blocks_go_back_to_the_host_and_others_stay() {
    let mut bench = Bench::new(8);
    assert_eq!(bench.ask(PLUG, block(0), 4), ACK);
    for index in 0..4 {
        bench.memory.write_obj(7u64, GuestAddress(block(index))).unwrap();
    }
    assert_eq!(bench.ask(UNPLUG, block(1), 2), ACK);
    let values =
        [0, 1, 2, 3].map(|index| bench.memory.read_obj::<u64>(GuestAddress(block(index))).unwrap());
    assert_eq!(values, [7, 0, 0, 7]);
    assert_eq!(bench.ask(UNPLUG, block(1), 1), ERROR, "unplugged already");
    assert_eq!(bench.ask(UNPLUG, block(0), 4), ERROR, "two of them are");
    assert_eq!(bench.ask(UNPLUG_ALL, 0, 0), ACK);
    assert_eq!(bench.blocks.plugged_len(), 0);
    assert_eq!(bench.memory.read_obj::<u64>(GuestAddress(block(3))).unwrap(), 0);
    assert_eq!(bench.ask(UNPLUG_ALL, u64::MAX, 9), ACK, "of none, with fields without meaning");
}

#[test]
fn state_is_told() {
    let mut bench = Bench::new(8);
    assert_eq!(bench.ask(PLUG, block(4), 4), ACK);
    assert_eq!(bench.ask(STATE, block(4), 4), IS_PLUGGED);
    assert_eq!(bench.ask(STATE, block(0), 4), IS_UNPLUGGED);
    assert_eq!(bench.ask(STATE, block(7), 2), IS_MIXED);
    assert_eq!(bench.ask(STATE, block(0), 64), IS_MIXED);
}

#[test]
fn places_outside_of_the_region_are_errors() {
    let mut bench = Bench::new(64);
    for kind in [PLUG, UNPLUG, STATE] {
        for (addr, count) in [
            (block(0), 0),
            (block(0) + 4096, 1),
            (block(0) - BLOCK_LEN, 1),
            (block(COUNT), 1),
            (block(COUNT - 1), 2),
            (block(0), 65),
            (block(0), u16::MAX),
            (0, 1),
            (u64::MAX, 1),
            (u64::MAX - BLOCK_LEN + 1, u16::MAX),
        ] {
            assert_eq!(bench.ask(kind, addr, count), ERROR, "{kind} {addr:#x} {count}");
        }
    }
    for kind in [4, 0x100, u16::MAX] {
        assert_eq!(bench.ask(kind, block(0), 1), ERROR);
    }
    assert_eq!(bench.blocks.plugged_len(), 0);
}

#[test]
fn chains_that_are_no_requests_get_no_answer_and_change_nothing() {
    let mut bench = Bench::new(64);
    let asked = bench.driver.readable(&request(PLUG, block(0), 1));
    let answer = bench.driver.writable(10);
    let cut_off = Buffer { len: 23, ..asked };
    let too_short = Buffer { len: 9, ..answer };
    let outside = Buffer { addr: 0xc000_0000, ..answer };
    let read_only = Buffer { writable: false, ..answer };
    bench.refuse(&[asked]);
    bench.refuse(&[answer]);
    bench.refuse(&[cut_off, answer]);
    bench.refuse(&[asked, too_short]);
    bench.refuse(&[asked, outside]);
    bench.refuse(&[asked, read_only]);
    bench.refuse(&[answer, asked]);
    bench.refuse(&[Buffer { len: 1 << 20, ..asked }, answer]);
    assert_eq!(bench.ask(PLUG, block(0), 1), ACK);
}

#[test]
fn pages_that_the_host_cannot_take_are_counted_and_the_blocks_unplugged_all_the_same() {
    let range = |addr, len| (GuestAddress(addr), len);
    let ranges = [range(0, testing::MEMORY_BYTES), range(REGION, 128 << 20)];
    let mut bench = Bench::with_memory(64, Memory::from_ranges(&ranges).unwrap());
    assert_eq!(bench.ask(PLUG, block(0), 2), ACK);
    assert_eq!(bench.ask(UNPLUG, block(0), 1), ACK);
    assert_eq!(bench.ask(STATE, block(0), 1), IS_UNPLUGGED);
    assert_eq!(bench.numbers.failed, 1);
}

#[test]
fn pages_are_taken_bit_by_bit_and_not_from_blocks_that_are_plugged_again() {
    let mut bench = Bench::new(64);
    assert_eq!(bench.ask(PLUG, block(0), 64), ACK);
    for index in 0..64 {
        bench.memory.write_obj(7u64, GuestAddress(block(index))).unwrap();
    }
    let marked = |bench: &Bench| {
        let read = |index| bench.memory.read_obj::<u64>(GuestAddress(block(index))).unwrap() == 7;
        (0..64).filter(|&index| read(index)).count()
    };
    assert_eq!(bench.ask(UNPLUG, block(0), 64), ACK);
    assert_eq!(bench.blocks.plugged_len(), 0);
    assert_eq!(marked(&bench), 64 - TURN_BLOCKS);
    assert_eq!(bench.ask(PLUG, block(40), 24), ACK);
    assert_eq!(marked(&bench), 24);
    assert_eq!(bench.ask(STATE, block(40), 24), IS_PLUGGED);
    assert_eq!(bench.ask(STATE, block(0), 40), IS_UNPLUGGED);

    bench.blocks.plug(&bench.blocks.all());
    bench.blocks.unplug(&bench.blocks.all());
    let Bench { memory, queue, blocks, numbers, .. } = &mut bench;
    for more in [true, false, false] {
        assert_eq!(process(queue, memory, blocks, numbers).unwrap().more, more);
    }
    assert_eq!(marked(&bench), 0);
}

/// What the specification says, with a set.
fn model(
    plugged: &mut BTreeSet<u64>,
    requested: u64,
    (kind, addr, count): (u16, u64, u16),
) -> (u16, u16) {
    if kind == UNPLUG_ALL {
        plugged.clear();
        return ACK;
    }
    let end = u128::from(addr) + u128::from(count) * u128::from(BLOCK_LEN);
    let fits = addr >= REGION && end <= u128::from(block(COUNT));
    if kind > STATE || count == 0 || !addr.is_multiple_of(BLOCK_LEN) || !fits {
        return ERROR;
    }
    let wanted: BTreeSet<u64> =
        (0..u64::from(count)).map(|index| addr + index * BLOCK_LEN).collect();
    let already = plugged.intersection(&wanted).count();
    match kind {
        PLUG if (plugged.len() + wanted.len()) as u64 > requested => NACK,
        PLUG if already > 0 => ERROR,
        PLUG => {
            plugged.extend(wanted);
            ACK
        }
        UNPLUG if already < wanted.len() => ERROR,
        UNPLUG => {
            plugged.retain(|addr| !wanted.contains(addr));
            ACK
        }
        _ if already == wanted.len() => IS_PLUGGED,
        _ if already == 0 => IS_UNPLUGGED,
        _ => IS_MIXED,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_answer_is_the_one_of_the_model(
        requested in 0..=COUNT,
        requests in proptest::collection::vec(
            (
                prop_oneof![8 => 0u16..4, 1 => any::<u16>()],
                prop_oneof![8 => (0..COUNT + 1).prop_map(block), 1 => any::<u64>()],
                prop_oneof![8 => 0u16..12, 1 => any::<u16>()],
            ),
            1..40,
        ),
    ) {
        let mut bench = Bench::new(requested);
        let mut plugged = BTreeSet::new();
        for asked in requests {
            let expected = model(&mut plugged, requested, asked);
            let (kind, addr, count) = asked;
            prop_assert_eq!(bench.ask(kind, addr, count), expected, "{:?}", asked);
            prop_assert_eq!(bench.blocks.plugged_len(), plugged.len() as u64 * BLOCK_LEN);
            prop_assert!(bench.blocks.plugged_len() <= bench.blocks.requested_len());
        }
    }
}
