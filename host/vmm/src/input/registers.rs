//! What a hostile guest does with the registers of a device.

use vm_memory::{Bytes, GuestAddress};

use super::script::Script;
use crate::bus::Registers;
use crate::virtio::mmio::status::{DEVICE_NEEDS_RESET, DRIVER_OK, FAILED};
use crate::virtio::queue::QueueConfig;
use crate::virtio::testing::Driver;
use crate::virtio::testing::probe::Probe;

/// Any accesses in any order.
///
/// # Panics
/// When the device is active and its status says otherwise, or the other way round; or when a
/// driver that begins anew finds a device that does not work.
pub fn registers(bytes: &[u8]) {
    let mut driver = Driver::new(Box::new(Probe::new()));
    let mut script = Script::new(bytes);
    while step(&mut script, &mut driver).is_some() {
        driver.run();
        let works = driver.status() & (DRIVER_OK | DEVICE_NEEDS_RESET | FAILED) == DRIVER_OK;
        let active = driver
            .transport
            .device()
            .downcast_mut::<Probe>()
            .is_some_and(|probe| probe.active.is_some());
        assert_eq!(active, works, "status {:#x}", driver.status());
    }
    driver.start(0, 16);
    let buffer = driver.queue(0).writable(8);
    driver.queue(0).add(&[buffer]);
    driver.kick(0);
    driver.run();
    assert_eq!(driver.queue(0).take_used().len(), 1, "a good driver is served");
}

fn step(script: &mut Script<'_>, driver: &mut Driver) -> Option<()> {
    match script.u8()? % 9 {
        0 => driver.write(u64::from(script.u8()? % 68) * 4, script.u32()?),
        1 => driver.write(0x070, u32::from(script.u8()?)),
        2 => driver.kick(usize::from(script.u8()? % 3)),
        3 => {
            let (offset, len) = (u64::from(script.u16()?), usize::from(script.u8()? % 8) + 1);
            let mut data = [0; 8];
            driver.transport.read(offset, &mut data[..len]);
            driver.transport.write(offset, script.bytes(len));
        }
        4 => {
            driver.negotiate(0);
        }
        5 => {
            driver.driver_ok();
        }
        6 => {
            let config = QueueConfig {
                max_size: 0,
                size: 1 << (script.u8()? % 8),
                ready: true,
                descriptors: script.address()?,
                available: script.address()?,
                used: script.address()?,
            };
            driver.set_up_queue(usize::from(script.u8()? & 1), &config);
        }
        7 => {
            let at = GuestAddress(script.address()?);
            // Outside of memory nothing is written.
            let _ = driver.memory.write_obj(script.u64()?, at);
        }
        _ => driver.start(0, 16),
    }
    Some(())
}
