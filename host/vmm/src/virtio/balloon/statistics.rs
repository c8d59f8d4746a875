//! The statistics queue: the guest's buffer stays here until the host wants to know more, and the
//! guest answers with the next one. virtio 1.2 §5.5.6.5.
//!
//! ```text
//! Empty --buffer--> Held --give_back--> Empty
//! ```

use std::collections::BTreeMap;
use std::io::Read;

use virtio_queue::{Queue, QueueT};

use super::core::Numbers;
use crate::Memory;
use crate::virtio::queue::{self, Limits, Outcome, QueueError, Request, Served, wants_interrupt};

/// What a guest says of its memory, by name: bytes, or how often.
pub type Statistics = BTreeMap<&'static str, u64>;

/// Tag and value, without a gap. virtio 1.2 §5.5.6.5.
const ENTRY_LEN: usize = 10;
/// Entries that are looked at; others follow them in no driver.
const LIMITS: Limits = Limits { descriptors: 16, readable: 4096, writable: 0 };

/// Names by tag. virtio 1.2 §5.5.6.6.
const NAMES: [&str; 10] = [
    "swap_in_bytes",
    "swap_out_bytes",
    "major_faults",
    "minor_faults",
    "free_bytes",
    "total_bytes",
    "available_bytes",
    "disk_cache_bytes",
    "hugetlb_allocations",
    "hugetlb_failures",
];

/// See the module.
#[derive(Debug, Default)]
pub struct StatisticsQueue {
    held: Option<u16>,
    last: Statistics,
}

impl StatisticsQueue {
    /// What the guest said last.
    #[must_use]
    pub fn last(&self) -> &Statistics {
        &self.last
    }

    /// Reads the guest's buffers and holds one; of more than one, which no driver has, the others
    /// go back.
    ///
    /// # Errors
    /// [`QueueError`]: the queue is broken.
    pub fn process(
        &mut self,
        queue: &mut Queue,
        memory: &Memory,
        numbers: &mut Numbers,
    ) -> Result<Outcome, QueueError> {
        queue::pass(queue, memory, |chain| {
            let head = chain.head_index();
            let Ok(mut request) = Request::split(chain, memory, LIMITS) else {
                numbers.malformed += 1;
                return Served::Used(0);
            };
            let mut entry = [0; ENTRY_LEN];
            let mut said = Statistics::new();
            while request.reader.read_exact(&mut entry).is_ok() {
                said.extend(parse(entry));
            }
            self.last = said;
            numbers.statistics += 1;
            if self.held.is_some() {
                return Served::Used(0);
            }
            self.held = Some(head);
            Served::Taken
        })
    }

    /// Gives the buffer back, by which the guest is asked for another. `None` if there is none
    /// here; else whether it wants an interrupt.
    ///
    /// # Errors
    /// [`QueueError`]: the queue is broken.
    pub fn give_back(
        &mut self,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Option<bool>, QueueError> {
        let Some(head) = self.held.take() else { return Ok(None) };
        queue.add_used(memory, head, 0)?;
        wants_interrupt(queue, memory).map(Some)
    }
}

/// Name and value, of a tag that is known.
fn parse(entry: [u8; ENTRY_LEN]) -> Option<(&'static str, u64)> {
    let [tag_low, tag_high, value @ ..] = entry;
    let name = NAMES.get(usize::from(u16::from_le_bytes([tag_low, tag_high])))?;
    Some((name, u64::from_le_bytes(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{self, DriverQueue};

    fn entry(tag: u16, value: u64) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn buffer_is_held_until_more_is_wanted() {
        let memory = testing::memory();
        let mut driver = DriverQueue::new(&memory, 0, 16);
        let mut queue = driver.device_queue();
        let mut statistics = StatisticsQueue::default();
        let mut numbers = Numbers::default();
        assert_eq!(statistics.give_back(&mut queue, &memory).unwrap(), None);

        let said = [entry(4, 4096), entry(5, 1 << 40), entry(99, 1), entry(0xffff, 2)].concat();
        let buffer = driver.readable(&said);
        let head = driver.add(&[buffer]);
        let outcome = statistics.process(&mut queue, &memory, &mut numbers).unwrap();
        assert!(!outcome.progress && driver.take_used().is_empty());
        let expected = [("free_bytes", 4096), ("total_bytes", 1 << 40)];
        assert_eq!(*statistics.last(), expected.into());

        assert_eq!(statistics.give_back(&mut queue, &memory).unwrap(), Some(true));
        assert_eq!(driver.take_used(), [(u32::from(head), 0)]);
        assert_eq!(statistics.give_back(&mut queue, &memory).unwrap(), None, "asked already");
        let buffer = driver.readable(&entry(2, 7));
        driver.add(&[buffer]);
        statistics.process(&mut queue, &memory, &mut numbers).unwrap();
        assert_eq!(*statistics.last(), [("major_faults", 7)].into());
        assert_eq!(numbers.statistics, 2);
    }

    #[test]
    fn buffers_beyond_the_one_and_those_that_are_none_go_back() {
        let memory = testing::memory();
        let mut driver = DriverQueue::new(&memory, 0, 16);
        let mut queue = driver.device_queue();
        let mut statistics = StatisticsQueue::default();
        let mut numbers = Numbers::default();
        let first = driver.readable(&entry(0, 1));
        driver.add(&[first]);
        let cut_off = driver.readable(&[&entry(1, 2)[..], &[0, 0, 1]].concat());
        let second = driver.add(&[cut_off]);
        let too_large = driver.readable(&[0; 4097]);
        let third = driver.add(&[too_large]);
        let not_readable = driver.writable(10);
        let fourth = driver.add(&[not_readable]);
        statistics.process(&mut queue, &memory, &mut numbers).unwrap();
        assert_eq!(driver.take_used(), [second, third, fourth].map(|head| (head.into(), 0)));
        assert_eq!(*statistics.last(), [("swap_out_bytes", 2)].into());
        assert_eq!((numbers.malformed, numbers.statistics), (2, 2));
    }
}
