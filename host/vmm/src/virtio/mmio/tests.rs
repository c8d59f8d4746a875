//! Tests: registers as drivers use them, good ones and bad ones.

use proptest::prelude::*;

use super::registers::QUEUE_NOTIFY;
use super::*;
use crate::virtio::testing::probe::{FEATURE, Probe};
use crate::virtio::testing::{Buffer, Driver, EVENT_IDX, INDIRECT_DESC, VERSION_1};

fn driver() -> Driver {
    Driver::new(Box::new(Probe::new()))
}

fn started() -> Driver {
    let mut driver = driver();
    driver.start(0, 16);
    driver.run();
    driver
}

fn is_active(driver: &Driver) -> bool {
    driver.transport.device().downcast_mut::<Probe>().unwrap().active.is_some()
}

#[test]
fn a_driver_finds_the_device() {
    let driver = driver();
    assert_eq!([0x000, 0x004, 0x008].map(|offset| driver.read(offset)), [0x7472_6976, 2, 4]);
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.offered(), FEATURE | VERSION_1 | INDIRECT_DESC | EVENT_IDX);
    driver.write(0x014, 2);
    assert_eq!(driver.read(0x010), 0);
    for (queue, size) in [(0, 16), (1, 64), (2, 0), (u32::MAX, 0)] {
        driver.write(0x030, queue);
        assert_eq!(driver.read(0x034), size);
        assert_eq!(driver.read(0x044), 0);
    }
}

#[test]
fn there_is_no_shared_memory() {
    let driver = driver();
    for region in [0, 1, u32::MAX] {
        driver.write(0x0ac, region);
        assert!((0x0b0..0x0c0).step_by(4).all(|offset| driver.read(offset) == u32::MAX));
    }
    assert_eq!(driver.counter("transport_bad_accesses"), 0);
    assert_eq!(driver.counter("transport_ignored"), 0);
}

#[test]
fn a_chain_goes_through_a_kick_to_the_device_and_back() {
    let mut driver = started();
    let buffer = driver.queue(1).writable(8);
    let head = driver.queue(1).add(&[buffer]);
    driver.kick(1);
    driver.run();
    assert_eq!(driver.queue(1).take_used(), [(u32::from(head), 1)]);
    assert!(driver.take_interrupt());
    assert!(!driver.take_interrupt());
}

#[test]
fn what_was_added_before_driver_ok_is_served_without_a_kick() {
    let mut driver = driver();
    driver.negotiate(0);
    let mut queue = crate::virtio::testing::DriverQueue::new(&driver.memory, 0, 4);
    driver.set_up_queue(0, &queue.config());
    let buffer = queue.writable(8);
    queue.add(&[buffer]);
    driver.kick(0);
    driver.run();
    assert_eq!(queue.take_used(), []);
    assert!(driver.driver_ok());
    driver.run();
    assert_eq!(queue.take_used().len(), 1);
}

#[test]
fn features_are_refused_without_version_1_and_with_what_was_not_offered() {
    let mut driver = driver();
    assert!(driver.negotiate(FEATURE | INDIRECT_DESC | EVENT_IDX));
    for wrong in [1, 1 << 33, 1 << 63] {
        assert!(!driver.negotiate(wrong), "{wrong:#x}");
        assert_eq!(driver.status(), 3);
    }
    // Another try, without VERSION_1, and then beyond the 64th.
    driver.write(0x024, 1);
    driver.write(0x020, 0);
    driver.write(0x070, 11);
    assert_eq!(driver.status(), 3);
    driver.write(0x020, 1);
    driver.write(0x024, 7);
    driver.write(0x020, 1);
    driver.write(0x070, 11);
    assert_eq!(driver.status(), 3);
    assert_eq!(driver.counter("transport_ignored"), 5);
}

#[test]
fn features_cannot_change_once_agreed_on() {
    let mut driver = driver();
    driver.negotiate(FEATURE);
    driver.write(0x024, 0);
    driver.write(0x020, 0);
    assert!(driver.driver_ok());
    let mut device = driver.transport.device();
    let features = device.downcast_mut::<Probe>().unwrap().active.as_ref().unwrap().features;
    assert_eq!(features, FEATURE | VERSION_1);
}

#[test]
fn the_status_is_climbed_rung_by_rung_and_what_is_illegal_is_ignored_and_counted() {
    let driver = driver();
    for illegal in [2, 4, 8, 5, 9, 13, 64, 16, 0x100, 0xffff_ff7f] {
        driver.write(0x070, illegal);
        assert_eq!(driver.status(), 0, "{illegal:#x}");
    }
    assert_eq!(driver.counter("transport_ignored"), 10);
    driver.write(0x070, 1);
    driver.write(0x070, 3);
    for illegal in [1, 2, 7, 19] {
        driver.write(0x070, illegal);
        assert_eq!(driver.status(), 3, "{illegal:#x}");
    }
    assert_eq!(driver.counter("transport_ignored"), 14);
}

#[test]
fn failed_stops_the_device_until_reset() {
    let mut driver = started();
    driver.write(0x070, driver.status() | 128);
    assert_eq!(driver.status(), 15 | 128);
    assert!(!is_active(&driver));
    let buffer = driver.queue(0).writable(8);
    driver.queue(0).add(&[buffer]);
    driver.kick(0);
    driver.run();
    assert_eq!(driver.queue(0).take_used(), []);
    driver.write(0x070, 15);
    assert_eq!(driver.status(), 15 | 128);
    driver.start(0, 16);
    assert!(is_active(&driver));
}

#[test]
fn queues_are_frozen_once_the_driver_is_ready() {
    let mut driver = started();
    let ignored = driver.counter("transport_ignored");
    driver.write(0x030, 0);
    for offset in [0x038, 0x080, 0x084, 0x090, 0x094, 0x0a0, 0x0a4] {
        driver.write(offset, 0x4000);
    }
    driver.write(0x044, 0);
    assert_eq!(driver.read(0x044), 1);
    assert_eq!(driver.counter("transport_ignored"), ignored + 8);
    let buffer = driver.queue(0).writable(8);
    driver.queue(0).add(&[buffer]);
    driver.kick(0);
    driver.run();
    assert_eq!(driver.queue(0).take_used().len(), 1);
}

#[test]
fn queues_that_are_not_set_up_are_none() {
    let mut driver = driver();
    driver.negotiate(0);
    let config =
        QueueConfig { max_size: 0, size: 0, ready: true, descriptors: 0, available: 0, used: 0 };
    driver.set_up_queue(0, &config);
    assert!(driver.driver_ok());
    let mut device = driver.transport.device();
    let queues = &device.downcast_mut::<Probe>().unwrap().active.as_ref().unwrap().queues;
    assert_eq!(queues, &[None, None]);
}

#[test]
fn rings_that_are_none_need_a_reset_and_leave_the_device_alone() {
    let good = QueueConfig {
        max_size: 16,
        size: 16,
        ready: true,
        descriptors: 0x1000,
        available: 0x2000,
        used: 0x3000,
    };
    let end = crate::virtio::testing::MEMORY_BYTES as u64;
    let bad = [
        QueueConfig { size: 3, ..good },
        QueueConfig { size: 32, ..good },
        QueueConfig { size: 0x1_0010, ..good },
        QueueConfig { size: u32::MAX, ..good },
        QueueConfig { descriptors: 0x1008, ..good },
        QueueConfig { available: 0x2001, ..good },
        QueueConfig { used: 0x3002, ..good },
        QueueConfig { available: 0, ..good },
        QueueConfig { descriptors: end - 0xf0, ..good },
        QueueConfig { available: end - 36, ..good },
        QueueConfig { used: end - 132, ..good },
        QueueConfig { descriptors: u64::MAX - 15, ..good },
        QueueConfig { available: u64::MAX - 1, ..good },
        QueueConfig { used: u64::MAX - 3, ..good },
    ];
    let mut driver = driver();
    for config in bad {
        driver.negotiate(0);
        driver.set_up_queue(0, &config);
        assert!(!driver.driver_ok(), "{config:?}");
        assert_eq!(driver.status(), 15 | 64);
        assert!(driver.take_config_interrupt());
        driver.kick(0);
        driver.run();
        assert!(!is_active(&driver));
    }
    assert_eq!(driver.counter("transport_needed_resets"), 14);
    driver.negotiate(0);
    let fits = QueueConfig { descriptors: end - 0x100, ..good };
    driver.set_up_queue(0, &fits);
    assert!(driver.driver_ok());
}

#[test]
fn a_device_that_cannot_be_activated_needs_a_reset() {
    let mut driver = driver();
    driver.transport.device().downcast_mut::<Probe>().unwrap().refuse = true;
    driver.negotiate(0);
    assert!(!driver.driver_ok());
    driver.transport.device().downcast_mut::<Probe>().unwrap().refuse = false;
    driver.start(0, 4);
    assert!(is_active(&driver));
}

#[test]
fn a_ring_that_lies_breaks_the_device_until_reset() {
    let mut driver = started();
    driver.queue(0).set_avail_idx(17);
    driver.kick(0);
    driver.run();
    assert_eq!(driver.status(), 15 | 64);
    assert!(driver.take_config_interrupt());
    assert!(!is_active(&driver));
    driver.queue(0).set_avail_idx(0);
    let buffer = driver.queue(1).writable(8);
    driver.queue(1).add(&[buffer]);
    driver.kick(1);
    driver.run();
    assert_eq!(driver.queue(1).take_used(), []);
    driver.write(0x100, 77);
    assert_eq!(driver.config::<1>(0), [1]);
    driver.start(0, 16);
    let buffer = driver.queue(1).writable(8);
    driver.queue(1).add(&[buffer]);
    driver.kick(1);
    driver.run();
    assert_eq!(driver.queue(1).take_used().len(), 1);
}

#[test]
fn a_reset_lets_go_of_everything_and_the_generation_goes_on() {
    let mut driver = started();
    let buffer = driver.queue(0).writable(8);
    driver.queue(0).add(&[buffer]);
    driver.kick(0);
    let before = driver.read(0x0fc);
    driver.transport.interrupt().config_changed();
    assert_eq!(driver.read(0x0fc), before + 1);
    driver.write(0x070, 0);
    driver.run();
    assert_eq!(driver.queue(0).take_used(), []);
    assert_eq!((driver.status(), driver.read(0x060)), (0, 0));
    assert_eq!(driver.read(0x0fc), before + 1);
    assert!(!is_active(&driver));
    driver.write(0x030, 0);
    assert_eq!(driver.read(0x044), 0);
    assert_eq!(driver.counter("resets"), 1);
}

#[test]
fn the_configuration_space_is_read_in_any_width_and_ends() {
    let driver = driver();
    assert_eq!(driver.config::<1>(1), [2]);
    assert_eq!(driver.config::<2>(3), [4, 5]);
    assert_eq!(driver.config::<4>(10), [11, 12, 0, 0]);
    assert_eq!(driver.config::<8>(5), [6, 7, 8, 9, 10, 11, 12, 0]);
    assert_eq!(driver.config::<8>(0xef8), [0; 8]);
    let mut data = [1; 8];
    driver.transport.read(u64::MAX, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn the_configuration_space_is_written_once_features_are_agreed_on() {
    let mut driver = driver();
    driver.transport.write(0x100, &[77]);
    assert_eq!(driver.config::<1>(0), [1]);
    driver.negotiate(0);
    driver.transport.write(0x100, &[77]);
    assert_eq!(driver.config::<1>(0), [77]);
}

#[test]
fn registers_of_another_width_read_as_zero_and_are_not_written() {
    let driver = driver();
    let mut data = [1; 8];
    driver.transport.read(0, &mut data);
    assert_eq!(data, [0; 8]);
    for (offset, len) in [(0, 1), (0, 2), (2, 2), (1, 4), (0x0fc, 8), (0x00e, 4)] {
        let mut data = vec![1; len];
        driver.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len]);
    }
    driver.transport.write(0x070, &[1]);
    driver.transport.write(0x070, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.status(), 0);
    driver.write(0x0c0, 1);
    assert_eq!(driver.read(0x0c0), 0);
    assert_eq!(driver.counter("transport_bad_accesses"), 11);
}

#[test]
fn a_kick_of_a_queue_that_is_not_there_is_ignored() {
    let mut driver = started();
    let kicks = driver.counter("kicks");
    driver.write(QUEUE_NOTIFY, 2);
    driver.write(QUEUE_NOTIFY, u32::MAX);
    driver.run();
    assert_eq!(driver.counter("kicks"), kicks);
    assert_eq!(driver.counter("transport_bad_accesses"), 2);
}

#[test]
fn a_guest_that_wants_no_interrupts_gets_none() {
    let mut driver = started();
    driver.queue(0).set_avail_flags(1);
    let buffer = driver.queue(0).writable(8);
    driver.queue(0).add(&[buffer]);
    driver.kick(0);
    driver.run();
    assert_eq!(driver.queue(0).take_used().len(), 1);
    assert!(!driver.take_interrupt());
}

#[test]
fn with_event_indexes_the_interrupt_comes_when_it_is_wanted() {
    let mut driver = driver();
    driver.start(EVENT_IDX, 16);
    driver.run();
    driver.queue(0).set_used_event(1);
    for wanted in [false, true, false] {
        let buffer = driver.queue(0).writable(8);
        driver.queue(0).add(&[buffer]);
        driver.kick(0);
        driver.run();
        assert_eq!(driver.take_interrupt(), wanted);
    }
    assert_eq!(driver.queue(0).avail_event(), 3);
}

#[test]
fn a_reset_by_a_processor_waits_for_the_turn_of_the_device() {
    let driver = started();
    let transport = driver.transport.clone();
    let begun = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let held = transport.device();
        let processor = scope.spawn(|| {
            begun.wait();
            // Takes no lock, nor does the next one.
            assert_eq!(driver.read(0x060) & 2, 0);
            driver.write(0x064, 1);
            driver.kick(0);
            driver.write(0x070, 0);
        });
        begun.wait();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!processor.is_finished());
        drop(held);
        processor.join().unwrap();
    });
    assert_eq!(driver.status(), 0);
    assert!(!is_active(&driver));
}

#[test]
fn processors_and_the_event_loop_may_do_anything_at_the_same_time() {
    let mut driver = driver();
    let transport = driver.transport.clone();
    std::thread::scope(|scope| {
        let begin_and_end = |rounds: u32| {
            for round in 0..rounds {
                let steps = [(0x070, 1), (0x070, 3), (0x024, 1), (0x020, 1), (0x070, 11)];
                let queue = [(0x030, 0), (0x038, 16), (0x080, 0x1000), (0x090, 0x2000)];
                let rest = [(0x0a0, 0x3000), (0x044, 1), (0x070, 15), (0x050, 0)];
                for (offset, value) in [&steps[..], &queue, &rest].concat() {
                    transport.write(offset, &u32::to_le_bytes(value));
                }
                if round % 2 == 0 {
                    transport.write(0x070, &[0; 4]);
                }
            }
        };
        let processors = [0; 2].map(|_| scope.spawn(move || begin_and_end(500)));
        while processors.iter().any(|processor| !processor.is_finished()) {
            // The device itself asserts that it is active when it is kicked.
            driver.run();
        }
    });
    driver.start(0, 16);
    assert!(is_active(&driver));
}

/// What a hostile driver may do next.
#[derive(Debug, Clone)]
enum Move {
    Write(u64, u32),
    Access(u64, Vec<u8>),
    Negotiate,
    SetUp(usize, QueueConfig),
    DriverOk,
    Memory(u64, u64),
}

fn moves() -> impl Strategy<Value = Move> {
    let value = prop_oneof![0..20u32, any::<u32>(), Just(0x1000u32), Just(0x2000)];
    let address = prop_oneof![0..0x8000u64, any::<u64>(), (0..0x800u64).prop_map(|a| a * 16)];
    let config = (0..70u32, any::<bool>(), [address.clone(), address.clone(), address]).prop_map(
        |(size, ready, [descriptors, available, used])| QueueConfig {
            max_size: 16,
            size,
            ready,
            descriptors,
            available,
            used,
        },
    );
    prop_oneof![
        ((0..64u64).prop_map(|word| word * 4), value.clone()).prop_map(|(o, v)| Move::Write(o, v)),
        (Just(0x070), 0..200u32).prop_map(|(offset, value)| Move::Write(offset, value)),
        (Just(QUEUE_NOTIFY), 0..2u32).prop_map(|(offset, value)| Move::Write(offset, value)),
        (0..0x10au64, prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(offset, data)| Move::Access(offset, data)),
        Just(Move::Negotiate),
        (0..2usize, config).prop_map(|(index, config)| Move::SetUp(index, config)),
        Just(Move::DriverOk),
        (0..0x1000u64, any::<u64>()).prop_map(|(at, word)| Move::Memory(at * 8, word)),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_moves_breaks_the_transport(moves in prop::collection::vec(moves(), 1..60)) {
        use vm_memory::{Bytes, GuestAddress};
        let mut driver = driver();
        for each in moves {
            match each {
                Move::Write(offset, value) => driver.write(offset, value),
                Move::Access(offset, mut data) => {
                    if offset < 0x100 {
                        driver.transport.write(offset, &data);
                    }
                    driver.transport.read(offset, &mut data);
                }
                Move::Negotiate => {
                    driver.negotiate(0);
                }
                Move::SetUp(index, config) => driver.set_up_queue(index, &config),
                Move::DriverOk => {
                    driver.driver_ok();
                }
                Move::Memory(at, word) => {
                    driver.memory.write_obj(word, GuestAddress(at)).unwrap();
                }
            }
            driver.run();
            // The device works exactly while the status says so.
            let works = driver.status() & (4 | 64 | 128) == 4;
            prop_assert_eq!(is_active(&driver), works);
        }
        driver.start(0, 16);
        let Buffer { addr, len, .. } = driver.queue(0).writable(8);
        driver.queue(0).add(&[Buffer { addr, len, writable: true }]);
        driver.kick(0);
        driver.run();
        prop_assert_eq!(driver.queue(0).take_used().len(), 1);
    }
}
