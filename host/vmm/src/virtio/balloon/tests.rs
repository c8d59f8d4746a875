//! Tests: the device behind its registers.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::{Ram, Size};
use crate::virtio::testing::Driver;

const STATS_AND_REPORTING: u64 = F_STATS_VQ | F_PAGE_REPORTING;

fn driver(config: Config) -> Driver {
    let ram = Ram::create_on_host(Size { mib: 64, hotplug_mib: 0 }, 64).unwrap();
    let device = Device::new(config, 64).unwrap();
    Driver::with_memory(Box::new(device), ram.guest().clone())
}

fn with_device<T>(driver: &Driver, call: impl FnOnce(&mut Device) -> T) -> T {
    call(driver.transport.device().downcast_mut::<Device>().unwrap())
}

fn target(driver: &Driver) -> u32 {
    u32::from_le_bytes(driver.config(0))
}

#[test]
fn target_changes_while_the_guest_runs_and_it_is_told_once() {
    let mut driver = driver(Config { mib: 8, ..Config::default() });
    assert_eq!(target(&driver), 8 * 256);
    driver.start(0, 16);
    assert!(!driver.take_config_interrupt());
    for (mib, told) in [(8, false), (16, true), (16, false), (0, true)] {
        with_device(&driver, |device| device.set_target_mib(mib).unwrap());
        assert_eq!(driver.take_config_interrupt(), told);
        assert_eq!(target(&driver), mib * 256);
    }
}

#[test]
fn target_that_leaves_nothing_is_refused_and_the_old_one_stays() {
    let mut driver = driver(Config { mib: 63, ..Config::default() });
    driver.start(0, 16);
    for mib in [64, 65, u32::MAX] {
        let error = with_device(&driver, |device| device.set_target_mib(mib).unwrap_err());
        assert_eq!(error, TargetError { mib, memory_mib: 64 });
    }
    assert_eq!(target(&driver), 63 * 256);
    assert!(!driver.take_config_interrupt());
    assert!(Device::new(Config { mib: 64, ..Config::default() }, 64).is_err());
}

#[test]
fn driver_writes_what_it_has_and_nothing_else() {
    let mut driver = driver(Config { mib: 4, ..Config::default() });
    driver.start(0, 16);
    driver.write(0x104, 512);
    assert_eq!(driver.counter("actual_pages"), 2 * 256);
    assert_eq!(driver.config(4), 512u32.to_le_bytes());
    driver.write(0x100, 0xffff_ffff);
    driver.write(0x108, 0xffff_ffff);
    assert_eq!((target(&driver), driver.config(8)), (4 * 256, [0; 4]));
    assert_eq!(driver.config(u64::MAX - 0x100), [0; 4]);
    assert_eq!(driver.counter("actual_pages"), 512);
    driver.start(0, 16);
    assert_eq!(driver.config(4), [0; 4], "a driver that begins anew has none");
}

#[test]
fn features_are_those_that_were_asked_for() {
    let transport_features =
        driver(Config { deflate_on_oom: false, page_reporting: false, mib: 0 }).offered()
            & 0xff_ffff;
    assert_eq!(transport_features, F_STATS_VQ);
    let all = driver(Config::default()).offered() & 0xff_ffff;
    assert_eq!(all, F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING);
}

#[test]
fn queues_are_found_by_the_numbers_of_linux_and_of_the_specification() {
    let roles = |features| [0, 1, 2, 3, 4, 5].map(|index| Role::of(index, features));
    let (inflate, deflate) = (Some(Role::Inflate), Some(Role::Deflate));
    let (statistics, reporting) = (Some(Role::Statistics), Some(Role::Reporting));
    assert_eq!(roles(0), [inflate, deflate, None, None, None, None]);
    assert_eq!(roles(F_STATS_VQ), [inflate, deflate, statistics, None, None, None]);
    assert_eq!(roles(F_PAGE_REPORTING), [inflate, deflate, reporting, None, reporting, None]);
    assert_eq!(
        roles(STATS_AND_REPORTING),
        [inflate, deflate, statistics, reporting, reporting, None]
    );
}

#[test]
fn every_queue_does_its_work_behind_the_registers() {
    let mut driver = driver(Config::default());
    driver.start(STATS_AND_REPORTING, 32);
    let memory = driver.memory.clone();
    let free = 48 << 20;
    memory.write_obj(7u64, GuestAddress(free)).unwrap();
    memory.write_obj(7u64, GuestAddress(free + 4096)).unwrap();
    let page = u32::try_from(free / 4096).unwrap();
    for queue in [0, 1] {
        let buffer = driver.queue(queue).readable(&page.to_le_bytes());
        driver.queue(queue).add(&[buffer]);
        driver.kick(queue);
    }
    let range = crate::virtio::testing::Buffer { addr: free + 4096, len: 4096, writable: true };
    driver.queue(3).add(&[range]);
    driver.kick(3);
    driver.run();
    assert!(driver.take_interrupt());
    assert_eq!(memory.read_obj::<u64>(GuestAddress(free)).unwrap(), 0);
    assert_eq!(memory.read_obj::<u64>(GuestAddress(free + 4096)).unwrap(), 0);
    let numbers = ["inflated_pages", "deflated_pages", "reported_bytes", "discarded_bytes"]
        .map(|name| driver.counter(name));
    assert_eq!(numbers, [1, 1, 4096, 8192]);
}

#[test]
fn statistics_are_asked_for_and_answered_with_interrupts() {
    let mut driver = driver(Config::default());
    assert!(!with_device(&driver, Device::ask_for_statistics), "no driver");
    driver.start(F_STATS_VQ, 16);
    assert!(!with_device(&driver, Device::ask_for_statistics), "no buffer yet");
    let entry = [&4u16.to_le_bytes()[..], &4096u64.to_le_bytes()].concat();
    let buffer = driver.queue(2).readable(&entry);
    driver.queue(2).add(&[buffer]);
    driver.kick(2);
    driver.run();
    assert!(!driver.take_interrupt());
    assert_eq!(driver.counter("free_bytes"), 4096);
    assert!(with_device(&driver, Device::ask_for_statistics));
    assert!(driver.take_interrupt());
    assert_eq!(driver.queue(2).take_used().len(), 1);
    assert!(!with_device(&driver, Device::ask_for_statistics), "the guest has not answered");

    driver.queue(2).add(&[buffer]);
    driver.kick(2);
    driver.run();
    driver.start(0, 16);
    assert!(!with_device(&driver, Device::ask_for_statistics), "the buffer went with the reset");
    assert!(!driver.transport.counters().contains_key("free_bytes"));
    assert!(driver.queue(2).take_used().is_empty());
}

#[test]
fn ring_that_lies_breaks_the_device_until_it_is_reset() {
    let mut driver = driver(Config::default());
    driver.start(0, 16);
    driver.queue(0).set_avail_idx(1000);
    driver.kick(0);
    driver.run();
    assert_eq!(driver.status() & 0x40, 0x40, "DEVICE_NEEDS_RESET");
    driver.start(0, 16);
    let buffer = driver.queue(0).readable(&0x3000u32.to_le_bytes());
    driver.queue(0).add(&[buffer]);
    driver.kick(0);
    driver.run();
    assert_eq!(driver.queue(0).take_used().len(), 1);
}
