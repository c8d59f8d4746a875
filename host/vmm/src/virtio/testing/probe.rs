//! The simplest device there is, for tests of transports: gives back every chain.

use crate::virtio::queue::{self, Served};
use crate::virtio::{ActivateError, Activation, Counters, Device, Kind};

/// The feature that a [`Probe`] offers.
pub const FEATURE: u64 = 1 << 5;

/// Gives back every chain with length 1. Its configuration space is 1, 2, ... 12, and writable.
#[derive(Debug)]
pub struct Probe {
    /// What it was activated with.
    pub active: Option<Activation>,
    /// Refuses to be activated.
    pub refuse: bool,
    config: [u8; 12],
    resets: u64,
    kicks: u64,
}

impl Probe {
    /// A device that no driver has found.
    #[must_use]
    pub fn new() -> Self {
        let config = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        Self { active: None, refuse: false, config, resets: 0, kicks: 0 }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for Probe {
    fn kind(&self) -> Kind {
        Kind::Entropy
    }

    fn features(&self) -> u64 {
        FEATURE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 64]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.config.len());
        for (byte, value) in data.iter_mut().zip(&self.config[from..]) {
            *byte = *value;
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.config.len());
        for (byte, value) in self.config[from..].iter_mut().zip(data) {
            *byte = *value;
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        assert!(self.active.is_none(), "activated twice");
        if self.refuse {
            return Err(ActivateError { kind: self.kind(), reason: "no".to_owned() });
        }
        self.active = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        self.resets += 1;
    }

    fn on_kick(&mut self, index: usize) {
        self.kicks += 1;
        let Activation { memory, queues, interrupt, .. } =
            self.active.as_mut().expect("a device that is not active gets no kicks");
        let Some(queue) = &mut queues[index] else { return };
        interrupt.settle(index, &queue::pass(queue, memory, |_| Served::Used(1)));
    }

    fn counters(&self) -> Counters {
        [("kicks", self.kicks), ("resets", self.resets)].into()
    }
}
