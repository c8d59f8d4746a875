//! The memory balloon, virtio 1.2 §5.5: the guest hands pages to the host, as many as the target
//! says, reports memory that it does not use, and tells how it is off.
//!
//! - [`core`]: the queues, over memory;
//! - [`statistics`]: what the guest says of its memory;
//! - here: what the transport sees, and the target.
//!
//! Pages go back to the host by a hole in the memfd. They stay memory all the same: a guest that
//! uses what it gave away finds zeroes.

pub mod core;
pub mod statistics;

use serde::{Deserialize, Serialize};

use self::core::Numbers;
use self::statistics::StatisticsQueue;
use super::{ActivateError, Activation, Counters, Kind, read_space};

/// Statistics queue. virtio 1.2 §5.5.3.
pub const F_STATS_VQ: u64 = 1 << 1;
/// The guest takes pages back when it has no other. virtio 1.2 §5.5.3.
pub const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// The guest reports free pages. virtio 1.2 §5.5.3.
pub const F_PAGE_REPORTING: u64 = 1 << 5;

/// Of every queue. Linux reports 32 ranges at once and needs a queue that takes them.
const QUEUE_SIZE: u16 = 128;
/// Up to reportingq. virtio 1.2 §5.5.2.
const QUEUES: usize = 5;
/// Pages of 4 KiB, whatever the guest's are. virtio 1.2 §5.5.6.
const PAGES_PER_MIB: u32 = 256;
/// Offset of `actual`, which the driver writes. virtio 1.2 §5.5.4.
const CONFIG_ACTUAL: usize = 4;

/// A balloon at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The target.
    pub mib: u32,
    /// The guest may take pages back when it has no other.
    pub deflate_on_oom: bool,
    /// The guest reports memory that it does not use.
    pub page_reporting: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { mib: 0, deflate_on_oom: true, page_reporting: true }
    }
}

/// A target that no guest can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a balloon of {mib} MiB in {memory_mib} MiB of memory")]
pub struct TargetError {
    /// What was asked for.
    pub mib: u32,
    /// The guest's memory.
    pub memory_mib: u32,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

impl Role {
    /// Of queue `index` with these features. Drivers of Linux number only the queues that there
    /// are; virtio 1.2 §5.5.2 gives each feature's a number of its own. Both are told apart,
    /// because free_page_vq, which is between them, is not offered.
    fn of(index: usize, features: u64) -> Option<Self> {
        let statistics = (features & F_STATS_VQ != 0).then_some(Self::Statistics);
        let reporting = (features & F_PAGE_REPORTING != 0).then_some(Self::Reporting);
        match index {
            0 => Some(Self::Inflate),
            1 => Some(Self::Deflate),
            2 => statistics.or(reporting),
            3 => statistics.and(reporting),
            4 => reporting,
            _ => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Device {
    features: u64,
    memory_mib: u32,
    target_pages: u32,
    /// As the driver says.
    actual: [u8; 4],
    active: Option<Activation>,
    statistics: StatisticsQueue,
    numbers: Numbers,
}

impl Device {
    /// A balloon for a guest of `memory_mib` that no driver has found.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn new(config: Config, memory_mib: u32) -> Result<Self, TargetError> {
        let optional = |wanted, feature| if wanted { feature } else { 0 };
        let features = F_STATS_VQ
            | optional(config.deflate_on_oom, F_DEFLATE_ON_OOM)
            | optional(config.page_reporting, F_PAGE_REPORTING);
        let mut device = Self {
            features,
            memory_mib,
            target_pages: 0,
            actual: [0; 4],
            active: None,
            statistics: StatisticsQueue::default(),
            numbers: Numbers::default(),
        };
        device.set_target_mib(config.mib)?;
        Ok(device)
    }

    /// How much memory the guest should give up. It does so in its own time, and as far as it can.
    ///
    /// # Errors
    /// [`TargetError`]: the target stays.
    pub fn set_target_mib(&mut self, mib: u32) -> Result<(), TargetError> {
        let memory_mib = self.memory_mib;
        let pages = mib.checked_mul(PAGES_PER_MIB).filter(|_| mib == 0 || mib < memory_mib);
        let pages = pages.ok_or(TargetError { mib, memory_mib })?;
        if pages != self.target_pages {
            self.target_pages = pages;
            if let Some(active) = &self.active {
                active.interrupt.config_changed();
            }
        }
        Ok(())
    }

    /// Asks the guest how it is off; the answer is among the counters once it came. False if it
    /// cannot be asked now: it has not answered yet, or does not know how.
    pub fn ask_for_statistics(&mut self) -> bool {
        let Some(active) = &mut self.active else { return false };
        let index = (0..QUEUES).find(|&at| Role::of(at, active.features) == Some(Role::Statistics));
        let Some(Some(queue)) = index.and_then(|index| active.queues.get_mut(index)) else {
            return false;
        };
        match self.statistics.give_back(queue, &active.memory) {
            Ok(None) => false,
            Ok(Some(notify)) => {
                if notify {
                    active.interrupt.used();
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "queue of balloon statistics is broken");
                active.interrupt.needs_reset();
                false
            }
        }
    }

    fn config(&self) -> [u8; 8] {
        let mut config = [0; 8];
        config[..CONFIG_ACTUAL].copy_from_slice(&self.target_pages.to_le_bytes());
        config[CONFIG_ACTUAL..].copy_from_slice(&self.actual);
        config
    }
}

impl super::Device for Device {
    fn kind(&self) -> Kind {
        Kind::Balloon
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            let index = usize::try_from(at).ok().and_then(|at| at.checked_sub(CONFIG_ACTUAL));
            if let Some(place) = index.and_then(|index| self.actual.get_mut(index)) {
                *place = *byte;
            }
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.active = Some(activation);
        Ok(())
    }

    /// A driver that begins anew owns all pages again.
    fn reset(&mut self) {
        self.active = None;
        self.actual = [0; 4];
        self.statistics = StatisticsQueue::default();
    }

    fn on_kick(&mut self, index: usize) {
        let Some(Activation { memory, queues, features, interrupt }) = &mut self.active else {
            return;
        };
        let Some(Some(queue)) = queues.get_mut(index) else { return };
        let numbers = &mut self.numbers;
        let passed = match Role::of(index, *features) {
            Some(Role::Inflate) => core::inflate(queue, memory, numbers),
            Some(Role::Deflate) => core::deflate(queue, memory, numbers),
            Some(Role::Statistics) => self.statistics.process(queue, memory, numbers),
            Some(Role::Reporting) => core::report(queue, memory, numbers),
            None => return,
        };
        interrupt.settle(index, &passed);
    }

    /// What the guest said last of its memory is among them.
    fn counters(&self) -> Counters {
        let mut counters = self.numbers.counters();
        counters.extend(self.statistics.last());
        counters.insert("target_pages", self.target_pages.into());
        counters.insert("actual_pages", u32::from_le_bytes(self.actual).into());
        counters
    }
}

#[cfg(test)]
mod tests;
