//! Makes hot-plug memory be there as far as it is needed, and no further: for the guest's
//! processors, for the devices, and for processes that share it.
//!
//! What goes is discarded at once, and once more when the last request that a disk had begun before
//! is done: it may have written to pages that were gone. Other devices hold no guest memory between
//! their turns.

use std::io;
use std::sync::Weak;

use super::devices::Devices;
use crate::Memory;
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
    /// Those that may still write to what went.
    pub stragglers: &'a mut Stragglers,
}

/// Requests of disks that were begun before memory went.
#[derive(Debug, Default)]
pub struct Stragglers(Vec<Weak<Memory>>);

impl Stragglers {
    /// True once, when the last of them is done.
    fn are_done(&mut self) -> bool {
        let any = !self.0.is_empty();
        self.0.retain(|request| request.strong_count() > 0);
        any && self.0.is_empty()
    }
}

impl Resizer<'_> {
    /// Another target of virtio-mem, whose memory is there before the guest is told.
    ///
    /// # Errors
    /// [`ResizeError`]: the target stays.
    pub fn set_target_mib(&mut self, mib: u32) -> Result<(), ResizeError> {
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
    pub fn settle(&mut self) -> Result<(), ResizeError> {
        if self.stragglers.are_done() {
            self.discard_from(self.hotplug.there_len())?;
        }
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
    fn shrink(&mut self, len: u64) -> Result<(), ResizeError> {
        let before = self.hotplug.there_len();
        if len >= before {
            return Ok(());
        }
        self.hotplug.set_there_len(len);
        for (index, _) in self.hotplug.chunks_in(len..before) {
            self.running.hide(index).map_err(ResizeError::Machine)?;
        }
        self.tell(len);
        self.stragglers.0.extend(self.devices.in_flight());
        self.discard_from(len)
    }

    fn discard_from(&self, len: u64) -> Result<(), ResizeError> {
        self.hotplug.discard(len..self.hotplug.region().len).map_err(ResizeError::Discard)
    }

    fn tell(&self, len: u64) {
        self.devices.share(self.hotplug.memory());
        self.devices.change_mem(|device| device.set_usable_len(len));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn stragglers_are_done_once_with_the_last_of_them() {
        let mut stragglers = Stragglers::default();
        assert!(!stragglers.are_done(), "there are none");
        let requests = [Arc::new(Memory::default()), Arc::new(Memory::default())];
        stragglers.0.extend(requests.iter().map(Arc::downgrade));
        let [first, second] = requests;
        assert!(!stragglers.are_done());
        drop(first);
        assert!(!stragglers.are_done());
        drop(second);
        assert!(stragglers.are_done());
        assert!(!stragglers.are_done());
    }
}
