//! The entropy device, virtio 1.2 §5.4: the guest gives buffers, and gets the host's random bytes.
//!
//! - [`core`]: the queue, over memory and any source of bytes;
//! - here: what the transport sees, with getrandom(2).

pub mod core;

use self::core::{Numbers, QUEUE_SIZE, process};
use super::{ActivateError, Activation, Counters, Kind};

/// See the module.
#[derive(Debug, Default)]
pub struct Device {
    active: Option<Activation>,
    numbers: Numbers,
}

impl Device {
    /// A device that no driver has found.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl super::Device for Device {
    fn kind(&self) -> Kind {
        Kind::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    /// There is none. virtio 1.2 §5.4.4.
    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.active = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn on_kick(&mut self, index: usize) {
        let Some(Activation { memory, queues, interrupt, .. }) = &mut self.active else { return };
        let Some(Some(queue)) = queues.get_mut(index) else { return };
        let passed = process(queue, memory, &mut self.numbers, |bytes| {
            getrandom::fill(bytes).map_err(Into::into)
        });
        interrupt.settle(index, &passed);
    }

    fn counters(&self) -> Counters {
        self.numbers.counters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::Driver;

    #[test]
    fn a_driver_gets_random_bytes_by_interrupt_also_after_a_reset() {
        let mut driver = Driver::new(Box::new(Device::new()));
        for _ in 0..2 {
            driver.start(0, 16);
            let buffer = driver.queue(0).writable(64);
            let head = driver.queue(0).add(&[buffer]);
            driver.kick(0);
            driver.run();
            assert_eq!(driver.queue(0).take_used(), [(u32::from(head), 64)]);
            assert!(driver.take_interrupt());
            assert_ne!(driver.queue(0).read(buffer), [0; 64]);
        }
        assert_eq!(driver.counter("read_bytes"), 128);
    }

    #[test]
    fn more_than_one_turn_gives_comes_with_the_next_ones() {
        let mut driver = Driver::new(Box::new(Device::new()));
        driver.start(0, 16);
        let buffers = [0; 12].map(|_| driver.queue(0).writable(core::MAX_REQUEST_LEN));
        for buffer in buffers {
            driver.queue(0).add(&[buffer]);
        }
        driver.kick(0);
        driver.run();
        assert_eq!(driver.queue(0).take_used().len(), 12);
        assert!(driver.take_interrupt());
    }
}
