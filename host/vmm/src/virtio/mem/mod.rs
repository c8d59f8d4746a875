//! Memory that grows and shrinks, virtio 1.2 §5.15: the host says how much the guest should have,
//! and the guest plugs and unplugs blocks of the hot-plug region, in its own time and as far as it
//! can.
//!
//! - [`core`]: requests, over memory and the blocks;
//! - [`blocks`]: which blocks are plugged;
//! - here: what the transport sees, and the request.
//!
//! What is unplugged goes back to the host, bit by bit. Blocks survive a reset of the device: only
//! the guest knows what it keeps in them.
//!
//! Of the region no more is usable than the device's owner lets be ([`Device::set_usable_len`]),
//! who asks what is needed ([`Device::take_need`]) and makes memory be there.

pub mod blocks;
pub mod core;

use serde::{Deserialize, Serialize};

use self::blocks::{BLOCK_LEN, Blocks};
use self::core::Numbers;
use super::{ActivateError, Activation, Counters, Kind, read_space};
use crate::memory::Region;

/// The guest must not touch what is not plugged. virtio 1.2 §5.15.3.
pub const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

const QUEUE_SIZE: u16 = 64;
/// `struct virtio_mem_config`. virtio 1.2 §5.15.4.
const CONFIG_LEN: usize = 56;
const BLOCK_MIB: u32 = 2;

/// Hot-plug memory at the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What the guest should plug, in MiB: a multiple of 2.
    pub mib: u32,
}

/// A request that no guest can fulfil.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The region is smaller.
    #[error("{mib} MiB of hot-plug memory, of {region_mib} MiB that there are")]
    TooLarge {
        /// What was asked for.
        mib: u32,
        /// The region's.
        region_mib: u64,
    },
    /// Not whole blocks.
    #[error("{mib} MiB of hot-plug memory are not a multiple of {BLOCK_MIB} MiB")]
    NotBlocks {
        /// What was asked for.
        mib: u32,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Device {
    blocks: Blocks,
    active: Option<Activation>,
    numbers: Numbers,
    /// What is needed may have changed since it was taken.
    changed: bool,
}

impl Device {
    /// A device for the hot-plug `region` that no driver has found. Nothing of it is usable yet.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn new(config: Config, region: &Region) -> Result<Self, TargetError> {
        let blocks = Blocks::new(region.guest_addr, region.len);
        let mut device = Self { blocks, active: None, numbers: Numbers::default(), changed: true };
        device.set_target_mib(config.mib)?;
        Ok(device)
    }

    /// How much of the region the guest should use. It does so in its own time, and as far as it
    /// can.
    ///
    /// # Errors
    /// [`TargetError`]: the target stays.
    pub fn set_target_mib(&mut self, mib: u32) -> Result<(), TargetError> {
        let len = self.check_target(mib)?;
        if len != self.blocks.requested_len() {
            self.blocks.request(len);
            self.changed = true;
            self.tell();
        }
        Ok(())
    }

    /// The bytes of a target that can be one.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn check_target(&self, mib: u32) -> Result<u64, TargetError> {
        if !mib.is_multiple_of(BLOCK_MIB) {
            return Err(TargetError::NotBlocks { mib });
        }
        let (len, region_len) = (u64::from(mib) << 20, self.blocks.region_len());
        if len > region_len {
            return Err(TargetError::TooLarge { mib, region_mib: region_len >> 20 });
        }
        Ok(len)
    }

    /// Bytes from the region's start on that must be there, if that may have changed since it was
    /// asked.
    pub fn take_need(&mut self) -> Option<u64> {
        std::mem::take(&mut self.changed).then(|| self.blocks.needed_len())
    }

    /// So many bytes from the region's start on are there, and the guest may plug them.
    pub fn set_usable_len(&mut self, len: u64) {
        let before = self.blocks.usable_len();
        self.blocks.set_usable_len(len);
        // More is told with the target that it is for.
        if self.blocks.usable_len() < before {
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some(active) = &self.active {
            active.interrupt.config_changed();
        }
    }

    /// How much the guest has plugged.
    #[must_use]
    pub fn plugged_mib(&self) -> u64 {
        self.blocks.plugged_len() >> 20
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let blocks = &self.blocks;
        let words = [
            BLOCK_LEN,
            0, // node_id, without a meaning
            blocks.addr(),
            blocks.region_len(),
            blocks.usable_len(),
            blocks.plugged_len(),
            blocks.requested_len(),
        ];
        let mut config = [0; CONFIG_LEN];
        for (place, word) in config.chunks_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        config
    }
}

impl super::Device for Device {
    fn kind(&self) -> Kind {
        Kind::Mem
    }

    fn features(&self) -> u64 {
        F_UNPLUGGED_INACCESSIBLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config(), offset, data);
    }

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
        let passed = core::process(queue, memory, &mut self.blocks, &mut self.numbers);
        self.changed = true;
        interrupt.settle(index, &passed);
    }

    fn counters(&self) -> Counters {
        let mut counters = self.numbers.counters();
        counters.insert("plugged_bytes", self.blocks.plugged_len());
        counters.insert("requested_bytes", self.blocks.requested_len());
        counters.insert("usable_bytes", self.blocks.usable_len());
        counters
    }
}

#[cfg(test)]
mod tests;
