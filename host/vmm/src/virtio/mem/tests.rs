//! Tests: the device behind its registers.

use super::*;
use crate::memory::{Ram, Size};
use crate::virtio::testing::Driver;

fn driver(mib: u32) -> (Driver, Region) {
    let ram = Ram::create_on_host(Size { mib: 32, hotplug_mib: 128 }, 160).unwrap();
    let hotplug = ram.hotplug().unwrap();
    let region = *hotplug.region();
    hotplug.set_there_len(region.len);
    let mut device = Device::new(Config { mib }, &region).unwrap();
    assert_eq!(device.take_need(), Some(u64::from(mib) << 20));
    device.set_usable_len(region.len);
    (Driver::with_memory(Box::new(device), ram.guest().clone()), region)
}

fn with_device<T>(driver: &Driver, call: impl FnOnce(&mut Device) -> T) -> T {
    call(driver.transport.device().downcast_mut::<Device>().unwrap())
}

fn word(driver: &Driver, offset: u64) -> u64 {
    u64::from_le_bytes(driver.config(offset))
}

fn plug(driver: &mut Driver, addr: u64, count: u16) -> u16 {
    let mut request = [0; 24];
    request[8..16].copy_from_slice(&addr.to_le_bytes());
    request[16..18].copy_from_slice(&count.to_le_bytes());
    let queue = driver.queue(0);
    let (asked, answer) = (queue.readable(&request), queue.writable(10));
    queue.add(&[asked, answer]);
    driver.kick(0);
    driver.run();
    assert!(driver.take_interrupt());
    let bytes = driver.queue(0).read(answer);
    u16::from_le_bytes([bytes[0], bytes[1]])
}

#[test]
fn configuration_says_what_there_is() {
    let (driver, region) = driver(16);
    let words = [0, 8, 16, 24, 32, 40, 48].map(|offset| word(&driver, offset));
    let len = 128 << 20;
    assert_eq!(words, [2 << 20, 0, region.guest_addr, len, len, 0, 16 << 20]);
    assert_eq!(driver.config(56), [0; 8]);
    assert_eq!(driver.config(u64::MAX - 0x100), [0; 8]);
    assert_eq!(driver.offered() & 0xff_ffff, F_UNPLUGGED_INACCESSIBLE);
}

#[test]
fn target_changes_while_the_guest_runs_and_it_is_told_once() {
    let (mut driver, region) = driver(0);
    driver.start(F_UNPLUGGED_INACCESSIBLE, 16);
    assert_eq!(plug(&mut driver, region.guest_addr, 1), 1, "NACK");
    for (mib, told) in [(4, true), (4, false), (0, true), (128, true)] {
        with_device(&driver, |device| device.set_target_mib(mib).unwrap());
        assert_eq!(driver.take_config_interrupt(), told);
        assert_eq!(word(&driver, 48), u64::from(mib) << 20);
    }
    assert_eq!(plug(&mut driver, region.guest_addr, 64), 0, "ACK");
    assert_eq!(word(&driver, 40), 128 << 20);
    assert_eq!(with_device(&driver, |device| device.plugged_mib()), 128);
    assert_eq!(driver.counter("plugged_bytes"), 128 << 20);
    assert!(!driver.take_config_interrupt(), "what the guest does is no news to it");
}

#[test]
fn targets_that_cannot_be_are_refused_and_the_old_one_stays() {
    let (driver, region) = driver(2);
    let set = |mib| with_device(&driver, |device| device.set_target_mib(mib));
    assert_eq!(set(130), Err(TargetError::TooLarge { mib: 130, region_mib: 128 }));
    assert_eq!(set(3), Err(TargetError::NotBlocks { mib: 3 }));
    assert!(set(u32::MAX - 1).is_err());
    assert_eq!(word(&driver, 48), 2 << 20);
    assert!(Device::new(Config { mib: 1 }, &region).is_err());
}

#[test]
fn usable_part_of_the_region_follows_and_the_guest_is_told_that_it_shrank() {
    let (mut driver, region) = driver(128);
    driver.start(F_UNPLUGGED_INACCESSIBLE, 16);
    driver.take_config_interrupt();
    for (len, told) in [(64 << 20, true), (64 << 20, false), (128 << 20, false), (0, true)] {
        with_device(&driver, |device| device.set_usable_len(len));
        assert_eq!(driver.take_config_interrupt(), told, "{len}");
        assert_eq!(word(&driver, 32), len);
        assert_eq!(driver.counter("usable_bytes"), len);
    }
    assert_eq!(word(&driver, 24), 128 << 20, "the region stays");
    assert_eq!(plug(&mut driver, region.guest_addr, 1), 1, "NACK");
}

#[test]
fn need_is_told_once_after_the_host_or_the_guest_changed_it() {
    let (mut driver, region) = driver(8);
    let need = |driver: &Driver| with_device(driver, Device::take_need);
    driver.start(F_UNPLUGGED_INACCESSIBLE, 16);
    driver.run();
    need(&driver);
    assert_eq!(need(&driver), None);
    with_device(&driver, |device| device.set_target_mib(32).unwrap());
    assert_eq!([need(&driver), need(&driver)], [Some(32 << 20), None]);
    assert_eq!(plug(&mut driver, region.guest_addr + (62 << 20), 1), 0);
    assert_eq!([need(&driver), need(&driver)], [Some(64 << 20), None]);
}

#[test]
fn blocks_survive_a_reset_of_the_device() {
    let (mut driver, region) = driver(128);
    driver.start(0, 16);
    assert_eq!(plug(&mut driver, region.guest_addr, 3), 0);
    driver.start(0, 16);
    assert_eq!(word(&driver, 40), 6 << 20);
    assert_eq!(plug(&mut driver, region.guest_addr, 1), 3, "ERROR: plugged already");
    assert_eq!(driver.counter("malformed"), 1);
}

#[test]
fn configuration_cannot_be_written() {
    let (mut driver, _) = driver(8);
    driver.start(0, 16);
    for offset in (0x100..0x138).step_by(4) {
        driver.write(offset, 0xffff_ffff);
    }
    assert_eq!([word(&driver, 0), word(&driver, 48)], [2 << 20, 8 << 20]);
}
