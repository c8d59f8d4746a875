//! Makes hot-plug memory be there as far as it is needed, and no further: for the guest's processors,
//! for the devices, and for processes that share it.

use std::io;

use super::devices::Devices;
use crate::machine::{MachineError, Running};
use crate::memory::Hotplug;
use crate::virtio::mem::TargetError;

/// Why there is not more or less of it.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// There cannot be so much.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// KVM refused.
    #[error("change the size of hot-plug memory: {0}")]
    Machine(#[source] MachineError),
    /// The host takes no pages back.
    #[error("give hot-plug memory back")]
    Discard(#[source] io::Error),
}

/// See the module.
pub struct Resizer<'a> {
    /// What changes.
    pub hotplug: &'a Hotplug,
    /// Its processors see it.
    pub running: &'a Running,
    /// They use it.
    pub devices: &'a Devices,
}

impl Resizer<'_> {
    /// Another target of virtio-mem, whose memory is there before the guest is told.
    ///
    /// # Errors
    /// [`ResizeError`]: the target stays.
    pub fn set_target_mib(&self, mib: u32) -> Result<(), ResizeError> {
        if let Some(wanted) = self.devices.change_mem(|device| device.check_target(mib)) {
            self.grow(self.hotplug.whole_chunks(wanted?))?;
        }
        self.devices.change_mem(|device| device.set_target_mib(mib)).transpose()?;
        self.settle()
    }

    /// After anything that may have changed what is needed: what is not goes back to the host.
    ///
    /// # Errors
    /// [`ResizeError`], which no healthy host has.
    pub fn settle(&self) -> Result<(), ResizeError> {
        let needed = self.devices.change_mem(|device| device.take_need()).flatten();
        let Some(needed) = needed else { return Ok(()) };
        let len = self.hotplug.whole_chunks(needed);
        self.grow(len)?;
        self.shrink(len)
    }

    fn grow(&self, len: u64) -> Result<(), ResizeError> {
        let before = self.hotplug.there_len();
        for (index, end) in self.hotplug.chunks_in(before..len) {
            self.running.show(index).map_err(ResizeError::Machine)?;
            self.hotplug.set_there_len(end);
        }
        if len > before {
            self.tell(len);
        }
        Ok(())
    }

    /// The guest may have touched memory there that it did not plug: all of it goes.
    fn shrink(&self, len: u64) -> Result<(), ResizeError> {
        let before = self.hotplug.there_len();
        if len >= before {
            return Ok(());
        }
        self.hotplug.set_there_len(len);
        for (index, _) in self.hotplug.chunks_in(len..before) {
            self.running.hide(index).map_err(ResizeError::Machine)?;
        }
        self.tell(len);
        self.hotplug.discard(len..before).map_err(ResizeError::Discard)
    }

    fn tell(&self, len: u64) {
        self.devices.share(self.hotplug.memory());
        self.devices.change_mem(|device| device.set_usable_len(len));
    }
}
