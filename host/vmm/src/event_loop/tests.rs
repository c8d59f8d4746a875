//! Tests: turns, with devices that count theirs.

mod race;

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Mutex;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use super::*;
use crate::virtio::testing::{self, Driver};
use crate::virtio::{ActivateError, Activation, Counters, Device, Kind};

/// Says whose turn it was; wants `more` turns, and reads from a pipe when it may.
struct Worker {
    name: char,
    more: u64,
    log: Arc<Mutex<String>>,
    source: Option<File>,
    active: Option<Activation>,
}

impl Worker {
    fn new(name: char, more: u64, log: &Arc<Mutex<String>>) -> Self {
        Self { name, more, log: log.clone(), source: None, active: None }
    }
}

impl Device for Worker {
    fn kind(&self) -> Kind {
        Kind::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[4, 4]
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.active = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn on_kick(&mut self, index: usize) {
        self.log.lock().unwrap().push(self.name);
        if self.more > 0 {
            self.more -= 1;
            self.active.as_ref().unwrap().interrupt.again(index);
        }
    }

    fn sources(&self) -> Vec<(BorrowedFd<'_>, EpollFlags)> {
        self.source.iter().map(|source| (source.as_fd(), EpollFlags::EPOLLIN)).collect()
    }

    fn on_source(&mut self, index: usize, events: EpollFlags) {
        assert_eq!(index, 0);
        assert!(events.contains(EpollFlags::EPOLLIN));
        let mut bytes = Vec::new();
        // Ends with WouldBlock.
        let _ = self.source.as_mut().unwrap().read_to_end(&mut bytes);
        self.log.lock().unwrap().push_str(&String::from_utf8(bytes).unwrap());
    }

    fn counters(&self) -> Counters {
        Counters::new()
    }
}

fn activated(devices: Vec<Worker>) -> Vec<Arc<Transport>> {
    let memory = testing::memory();
    let transport = |device: Worker| {
        let transport = Transport::new(Box::new(device), memory.clone()).unwrap();
        for status in [1u32, 3] {
            crate::bus::Registers::write(&transport, 0x070, &status.to_le_bytes());
        }
        for (offset, value) in [(0x024, 1u32), (0x020, 1), (0x070, 11), (0x070, 15)] {
            crate::bus::Registers::write(&transport, offset, &value.to_le_bytes());
        }
        Arc::new(transport)
    };
    devices.into_iter().map(transport).collect()
}

fn is_readable(events: &EventLoop) -> bool {
    poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

fn run(events: &mut EventLoop) -> usize {
    std::iter::from_fn(|| Some(events.dispatch().unwrap()).filter(|&turns| turns > 0)).sum()
}

#[test]
fn a_device_with_more_work_comes_after_the_others() {
    let log = Arc::default();
    let names = [('a', 3), ('b', 0), ('c', 1)];
    let workers = names.map(|(name, more)| Worker::new(name, more, &log));
    let transports = activated(workers.into());
    let mut events = EventLoop::new(&transports).unwrap();
    for transport in &transports {
        transport.interrupt().again(0);
    }
    assert_eq!(run(&mut events), 7);
    assert_eq!(*log.lock().unwrap(), "abcacaa");
    assert!(!is_readable(&events));
}

#[test]
fn work_waits_while_nobody_dispatches() {
    let log = Arc::default();
    let mut worker = Worker::new('a', 0, &log);
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK).unwrap();
    worker.source = Some(File::from(reader));
    let transports = activated(vec![worker]);
    let mut events = EventLoop::new(&transports).unwrap();
    assert!(!is_readable(&events));
    for _ in 0..3 {
        transports[0].interrupt().again(1);
    }
    File::from(writer.try_clone().unwrap()).write_all(b"bytes").unwrap();
    assert!(is_readable(&events));
    assert!(is_readable(&events));
    run(&mut events);
    let mut log: Vec<char> = log.lock().unwrap().chars().collect();
    log.sort_unstable();
    assert_eq!(log.into_iter().collect::<String>(), "abesty");
    assert!(!is_readable(&events));
}

#[test]
fn a_source_that_has_ended_is_told_of_once() {
    let log = Arc::default();
    let mut worker = Worker::new('a', 0, &log);
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK).unwrap();
    worker.source = Some(File::from(reader));
    let transports = activated(vec![worker]);
    let mut events = EventLoop::new(&transports).unwrap();
    File::from(writer).write_all(b"last").unwrap();
    assert_eq!(run(&mut events), 1);
    assert_eq!(*log.lock().unwrap(), "last");
    assert!(!is_readable(&events));
}

#[test]
fn more_turns_than_one_dispatch_gives_are_given_by_the_next() {
    let log = Arc::default();
    let workers = (0..40).map(|_| Worker::new('a', 0, &log)).collect();
    let transports = activated(workers);
    let mut events = EventLoop::new(&transports).unwrap();
    for transport in &transports {
        transport.interrupt().again(0);
        transport.interrupt().again(1);
    }
    assert_eq!(events.dispatch().unwrap(), TURNS);
    assert!(is_readable(&events));
    assert_eq!(events.dispatch().unwrap(), 16);
    assert!(!is_readable(&events));
}

#[test]
fn kicks_of_a_device_that_is_not_active_are_dropped() {
    let log = Arc::default();
    let mut driver = Driver::new(Box::new(Worker::new('a', 0, &log)));
    driver.kick(0);
    driver.run();
    assert_eq!(*log.lock().unwrap(), "");
}

proptest::proptest! {
    #[test]
    fn tokens_come_back(device in 0usize..1000, index in 0usize..1000, is_kick: bool) {
        let token = match is_kick {
            true => Token::Kick { device, queue: index },
            false => Token::Source { device, source: index },
        };
        proptest::prop_assert_eq!(Token::decode(token.encode()), Some(token));
    }
}
