//! Tests: the queues as guests use them, honest and hostile.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::layout::{HOLE_END, HOLE_START};
use crate::memory::{Ram, Size};
use crate::virtio::testing::{Buffer, Descriptor, DriverQueue, NEXT, QUEUE_STRIDE, WRITE};

type Serve = fn(&mut Queue, &Memory, &mut Numbers) -> Result<Outcome, QueueError>;

/// First page that no queue of the tests is in.
const FREE_PAGE: u32 = 0x2000;

struct Bench {
    ram: Ram,
    driver: DriverQueue,
    queue: Queue,
    numbers: Numbers,
}

impl Bench {
    fn new(mib: u32) -> Self {
        let ram = Ram::create_on_host(Size { mib, hotplug_mib: 0 }, u64::from(mib)).unwrap();
        let driver = DriverQueue::new(ram.guest(), 0, 128);
        let queue = driver.device_queue();
        Self { ram, driver, queue, numbers: Numbers::default() }
    }

    fn turn(&mut self, serve: Serve) -> Outcome {
        serve(&mut self.queue, self.ram.guest(), &mut self.numbers).unwrap()
    }

    /// Serves a buffer of page numbers.
    fn pages(&mut self, serve: Serve, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        let buffer = self.driver.readable(&bytes);
        self.chain(serve, &[buffer]);
    }

    /// Serves a chain, which comes back with nothing written.
    fn chain(&mut self, serve: Serve, buffers: &[Buffer]) {
        let head = self.driver.add(buffers);
        self.turn(serve);
        assert_eq!(self.driver.take_used(), [(u32::from(head), 0)]);
    }

    fn mark(&self, addr: u64) {
        self.ram.guest().write_obj(!addr, GuestAddress(addr)).unwrap();
    }

    fn is_marked(&self, addr: u64) -> bool {
        match self.ram.guest().read_obj::<u64>(GuestAddress(addr)).unwrap() {
            0 => false,
            value => {
                assert_eq!(value, !addr);
                true
            }
        }
    }

    /// Pages that the host gave.
    fn host_pages(&self) -> u64 {
        let file = File::from(self.ram.file().try_clone_to_owned().unwrap());
        file.metadata().unwrap().blocks() * 512 / PAGE_SIZE
    }
}

fn addr(page: u32) -> u64 {
    u64::from(page) * PAGE_SIZE
}

fn range(addr: u64, len: u32) -> Buffer {
    Buffer { addr, len, writable: true }
}

#[test]
fn inflated_pages_go_back_to_the_host_and_their_neighbours_stay() {
    let mut bench = Bench::new(64);
    let all: Vec<u32> = (FREE_PAGE..FREE_PAGE + 10).collect();
    all.iter().for_each(|&page| bench.mark(addr(page)));
    // From here on the rings are there, too.
    bench.pages(inflate, &[FREE_PAGE + 20]);
    let before = bench.host_pages();
    // Out of order, twice, with a gap.
    let given = [5, 1, 2, 9, 5, 3].map(|page| FREE_PAGE + page);
    bench.pages(inflate, &given);
    assert_eq!(before - bench.host_pages(), 5);
    for page in all {
        assert_eq!(bench.is_marked(addr(page)), !given.contains(&page));
    }
    let Numbers { inflated_pages, discarded_bytes, bad_pages, .. } = bench.numbers;
    assert_eq!((inflated_pages, discarded_bytes, bad_pages), (6, 6 * PAGE_SIZE, 0));
}

#[test]
fn pages_that_are_no_memory_are_counted_and_the_others_taken() {
    let mut bench = Bench::new(3073);
    let last_low = u32::try_from(HOLE_START / PAGE_SIZE).unwrap() - 1;
    let first_high = u32::try_from(HOLE_END / PAGE_SIZE).unwrap();
    for page in [last_low, first_high] {
        bench.mark(addr(page));
    }
    let hole = [last_low + 1, last_low + 2, 0xd_0000, first_high - 1];
    let beyond = [first_high + 256, first_high + 257, u32::MAX, u32::MAX - 1];
    let pages = [&hole[..], &[last_low, first_high], &beyond].concat();
    bench.pages(inflate, &pages);
    assert!(!bench.is_marked(addr(last_low)) && !bench.is_marked(addr(first_high)));
    let Numbers { inflated_pages, discarded_bytes, bad_pages, failed, .. } = bench.numbers;
    assert_eq!((inflated_pages, discarded_bytes), (10, 2 * PAGE_SIZE));
    assert_eq!((bad_pages, failed), (8, 0));
}

#[test]
fn buffers_that_hold_no_page_numbers_are_counted_and_given_back() {
    for serve in [inflate as Serve, deflate] {
        let mut bench = Bench::new(64);
        let odd = bench.driver.readable(&[0, 0x20, 0, 0, 1]);
        let empty = bench.driver.readable(&[]);
        let writable = bench.driver.writable(8);
        let too_many = bench.driver.readable(&vec![0; MAX_PAGES * 4 + 4]);
        let outside = Buffer { addr: HOLE_START, len: 8, writable: false };
        let over_the_end = Buffer { addr: (64 << 20) - 4, len: 8, writable: false };
        let wraps = Buffer { addr: u64::MAX - 3, len: 8, writable: false };
        for buffer in [odd, empty, writable, too_many, outside, over_the_end, wraps] {
            bench.chain(serve, &[buffer]);
        }
        assert_eq!(bench.numbers, Numbers { malformed: 7, ..Numbers::default() });
        bench.pages(serve, &[FREE_PAGE]);
        assert_eq!(bench.numbers.inflated_pages + bench.numbers.deflated_pages, 1);
    }
}

#[test]
fn numbers_that_are_full_stay_so() {
    let mut bench = Bench::new(64);
    let full = u64::MAX - PAGE_SIZE;
    bench.numbers = Numbers { reported_bytes: full, discarded_bytes: full, ..Numbers::default() };
    for _ in 0..2 {
        bench.chain(report, &[range(addr(FREE_PAGE), 4096), range(HOLE_START, 4096)]);
    }
    let Numbers { reported_bytes, discarded_bytes, bad_pages, .. } = bench.numbers;
    assert_eq!((reported_bytes, discarded_bytes, bad_pages), (u64::MAX, u64::MAX, 2));
}

#[test]
fn page_numbers_may_come_in_pieces_and_by_an_indirect_table() {
    let mut bench = Bench::new(64);
    let pieces =
        [&[0x00u8, 0x20][..], &[0, 0, 1], &[0x20, 0, 0]].map(|piece| bench.driver.readable(piece));
    bench.chain(inflate, &pieces);
    let head = bench.driver.add_indirect(&pieces);
    bench.turn(inflate);
    assert_eq!(bench.driver.take_used(), [(u32::from(head), 0)]);
    assert_eq!((bench.numbers.inflated_pages, bench.numbers.bad_pages), (4, 0));
}

#[test]
fn guest_that_gives_its_own_queue_away_harms_only_itself() {
    let mut bench = Bench::new(64);
    let first = u32::try_from(QUEUE_STRIDE / PAGE_SIZE).unwrap();
    let rings: Vec<u8> = (first..first + 256).flat_map(u32::to_le_bytes).collect();
    let buffer = bench.driver.readable(&rings);
    bench.driver.add(&[buffer]);
    // Rings of zeroes: whatever is made of them, the next turns end.
    for _ in 0..3 {
        let _ = inflate(&mut bench.queue, bench.ram.guest(), &mut bench.numbers);
    }
    assert_eq!(bench.numbers.bad_pages, 0);
}

#[test]
fn turn_is_bounded_and_the_rest_comes_with_the_next() {
    let mut bench = Bench::new(256);
    let count = u32::try_from(MAX_PAGES).unwrap();
    let buffers_of_a_turn = u32::try_from(TURN_LEN / PAGE_SIZE).unwrap() / count;
    for index in 0..2 * buffers_of_a_turn {
        let start = FREE_PAGE + index * count;
        let bytes: Vec<u8> = (start..start + count).flat_map(u32::to_le_bytes).collect();
        let buffer = bench.driver.readable(&bytes);
        bench.driver.add(&[buffer]);
    }
    for more in [true, false] {
        assert_eq!(bench.turn(inflate).more, more);
        assert_eq!(bench.driver.take_used().len(), buffers_of_a_turn as usize);
    }
    assert_eq!(bench.numbers.discarded_bytes, 2 * TURN_LEN);
}

#[test]
fn deflated_pages_are_memory_as_before() {
    let mut bench = Bench::new(64);
    bench.pages(inflate, &[FREE_PAGE, FREE_PAGE + 1]);
    bench.mark(addr(FREE_PAGE));
    bench.pages(deflate, &[FREE_PAGE, FREE_PAGE + 1, u32::MAX]);
    assert!(bench.is_marked(addr(FREE_PAGE)));
    assert_eq!(bench.numbers.deflated_pages, 3);
}

#[test]
fn free_memory_that_is_reported_goes_back_to_the_host() {
    let mut bench = Bench::new(64);
    for page in [0, 511, 512, 1024, 1535] {
        bench.mark(addr(FREE_PAGE + page));
    }
    let large = 2 << 20;
    let two = [range(addr(FREE_PAGE), large), range(addr(FREE_PAGE + 1024), large)];
    bench.chain(report, &two);
    let marked = [0, 511, 512, 1024, 1535].map(|page| bench.is_marked(addr(FREE_PAGE + page)));
    assert_eq!(marked, [false, false, true, false, false]);
    assert_eq!(bench.numbers.reported_bytes, 2 * u64::from(large));
    assert_eq!(bench.numbers.discarded_bytes, 2 * u64::from(large));
}

#[test]
fn ranges_that_are_no_pages_or_no_memory_are_left_alone() {
    let mut bench = Bench::new(3073);
    bench.mark(HOLE_START - PAGE_SIZE);
    bench.mark(HOLE_END);
    bench.mark(addr(FREE_PAGE));
    bench.chain(report, &[range(addr(FREE_PAGE) + 1, 4096), range(addr(FREE_PAGE), 4095)]);
    assert!(bench.is_marked(addr(FREE_PAGE)));
    assert_eq!(bench.numbers.bad_pages, 2);
    // Into the hole: what is memory is taken.
    bench.chain(report, &[range(HOLE_START - PAGE_SIZE, 3 * 4096)]);
    assert!(!bench.is_marked(HOLE_START - PAGE_SIZE) && bench.is_marked(HOLE_END));
    bench.chain(report, &[range(!4095, 4096), range(HOLE_START, 4096)]);
    assert_eq!((bench.numbers.bad_pages, bench.numbers.failed), (6, 0));
}

#[test]
fn report_gives_back_so_much_at_most() {
    let mut bench = Bench::new(1024);
    let behind = addr(FREE_PAGE) + MAX_REPORT_LEN;
    bench.mark(behind - PAGE_SIZE);
    bench.mark(behind);
    bench.chain(report, &[range(addr(FREE_PAGE), 512 << 20), range(behind, 4096)]);
    assert!(!bench.is_marked(behind - PAGE_SIZE) && bench.is_marked(behind));
    assert_eq!(bench.numbers.discarded_bytes, MAX_REPORT_LEN);
}

#[test]
fn reports_that_are_none_take_nothing() {
    let mut bench = Bench::new(64);
    bench.mark(addr(FREE_PAGE));
    let free = range(addr(FREE_PAGE), 4096);
    bench.chain(report, &[free, Buffer { writable: false, ..free }]);
    bench.chain(report, &[Buffer { writable: false, ..free }]);
    // The next descriptor is not in the table; the chain is a loop.
    for next in [128, 4] {
        let descriptor = Descriptor { addr: free.addr, len: 4096, flags: NEXT | WRITE, next };
        bench.driver.write_descriptor(4, descriptor);
        bench.driver.publish(4);
        bench.turn(report);
        assert_eq!(bench.driver.take_used(), [(4, 0)]);
    }
    assert!(bench.is_marked(addr(FREE_PAGE)));
    assert_eq!(bench.numbers, Numbers { malformed: 4, ..Numbers::default() });
}

#[test]
fn memory_that_cannot_be_given_back_is_counted() {
    // Of no file: there is nothing to make a hole in.
    let memory = Memory::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
    let mut driver = DriverQueue::new(&memory, 0, 16);
    let mut queue = driver.device_queue();
    let mut numbers = Numbers::default();
    let buffer = driver.readable(&0xf00u32.to_le_bytes());
    driver.add(&[buffer]);
    inflate(&mut queue, &memory, &mut numbers).unwrap();
    assert_eq!((numbers.failed, numbers.discarded_bytes), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Exactly the named pages of memory become zeroes, and all numbers add up.
    #[test]
    fn named_pages_and_no_others_are_given_back(
        pages in proptest::collection::vec(
            prop_oneof![4 => FREE_PAGE..FREE_PAGE + 64, 1 => 0x4000u32..0x4010, 1 => any::<u32>()],
            1..200,
        ),
    ) {
        let pages: Vec<u32> = pages.into_iter().filter(|page| *page >= FREE_PAGE).collect();
        prop_assume!(!pages.is_empty());
        let mut bench = Bench::new(64);
        let marked = FREE_PAGE..FREE_PAGE + 64;
        marked.clone().for_each(|page| bench.mark(addr(page)));
        bench.pages(inflate, &pages);
        for page in marked {
            prop_assert_eq!(bench.is_marked(addr(page)), !pages.contains(&page));
        }
        let named: std::collections::BTreeSet<u32> = pages.into_iter().collect();
        let numbers = bench.numbers;
        prop_assert_eq!(numbers.inflated_pages, named.len() as u64);
        let memory_pages = named.iter().filter(|&&page| page < 0x4000).count() as u64;
        prop_assert_eq!(numbers.discarded_bytes, memory_pages * PAGE_SIZE);
        prop_assert_eq!(numbers.bad_pages, named.len() as u64 - memory_pages);
    }

    #[test]
    fn any_descriptors_are_survived(
        descriptors in proptest::collection::vec(
            (any::<u64>(), any::<u32>(), any::<u16>(), 0u16..140), 1..32),
        heads in proptest::collection::vec(0u16..140, 1..16),
        which in 0usize..3,
    ) {
        let mut bench = Bench::new(32);
        for (index, (at, len, flags, next)) in (0..).zip(descriptors) {
            // Half of them in memory.
            let addr = if len % 2 == 0 { at % (40 << 20) } else { at };
            bench.driver.write_descriptor(index, Descriptor { addr, len, flags, next });
        }
        heads.into_iter().for_each(|head| bench.driver.publish(head));
        let serve = [inflate as Serve, deflate, report][which];
        let _ = serve(&mut bench.queue, bench.ram.guest(), &mut bench.numbers);
    }
}
