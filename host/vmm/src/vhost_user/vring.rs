//! One queue as the front end sets it up. Its set-up is frozen when it starts: what comes later is
//! ignored and counted until it stops.
//!
//! ```text
//! Stopped --kick, enabled--> Running --GET_VRING_BASE--> Stopped
//!                               '-- rings that lie --> Broken --GET_VRING_BASE--> Stopped
//! ```

use std::fs::File;
use std::io::Write;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::memory::SharedMemory;

/// Most descriptors of a queue; QEMU's device uses 128.
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// Addresses of the rings, in the front end's address space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// Why a queue cannot be set up so, or cannot start.
#[derive(Debug, thiserror::Error)]
pub enum VringError {
    /// Not a power of two up to [`MAX_QUEUE_SIZE`].
    #[error("set up queue: {size} descriptors")]
    Size {
        /// As asked for.
        size: u32,
    },
    /// An index beyond 16 bits.
    #[error("set up queue: start at {index}")]
    Index {
        /// As asked for.
        index: u32,
    },
    /// A ring is not in guest memory.
    #[error("start queue: the ring at {address:#x} is outside of guest memory")]
    Address {
        /// In the front end's address space.
        address: u64,
    },
    /// The rings are not aligned, or reach beyond guest memory.
    #[error("start queue")]
    Ring(#[source] virtio_queue::Error),
    /// A ring begins in guest memory and ends elsewhere.
    #[error("start queue: a ring reaches beyond guest memory")]
    Bounds,
}

#[derive(Debug)]
enum State {
    Stopped,
    Running(Queue),
    Broken { next_avail: u16 },
}

/// See the module.
#[derive(Debug)]
pub struct Vring {
    size: u16,
    addresses: RingAddresses,
    base: u16,
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
    state: State,
    ignored: u64,
}

impl Default for Vring {
    fn default() -> Self {
        Self {
            size: MAX_QUEUE_SIZE,
            addresses: RingAddresses::default(),
            base: 0,
            kick: None,
            call: None,
            enabled: false,
            state: State::Stopped,
            ignored: 0,
        }
    }
}

impl Vring {
    /// Number of descriptors.
    ///
    /// # Errors
    /// [`VringError::Size`].
    pub fn set_size(&mut self, size: u32) -> Result<(), VringError> {
        if self.is_frozen() {
            return Ok(());
        }
        self.size = u16::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE)
            .ok_or(VringError::Size { size })?;
        Ok(())
    }

    /// Where the rings are; looked up when the queue starts.
    pub fn set_addresses(&mut self, addresses: RingAddresses) {
        if !self.is_frozen() {
            self.addresses = addresses;
        }
    }

    /// The available ring's index to start at.
    ///
    /// # Errors
    /// [`VringError::Index`].
    pub fn set_base(&mut self, index: u32) -> Result<(), VringError> {
        if !self.is_frozen() {
            self.base = u16::try_from(index).map_err(|_| VringError::Index { index })?;
        }
        Ok(())
    }

    /// The descriptor by which the guest says that it added buffers.
    pub fn set_kick(&mut self, kick: Option<File>) {
        self.kick = kick;
    }

    /// The descriptor by which the guest is told that buffers were used.
    pub fn set_call(&mut self, call: Option<File>) {
        self.call = call;
    }

    /// A queue that is not enabled is not served.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// The descriptor by which the guest says that it added buffers.
    #[must_use]
    pub fn kick(&self) -> Option<&File> {
        self.kick.as_ref()
    }

    /// How many requests came too late.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Starts the queue if it is ready to and has not started. True when it started.
    ///
    /// # Errors
    /// [`VringError`]: what the front end set up is no queue.
    pub fn start(&mut self, memory: &SharedMemory, event_idx: bool) -> Result<bool, VringError> {
        let ready = self.kick.is_some() && self.enabled;
        if !ready || !matches!(self.state, State::Stopped) {
            return Ok(false);
        }
        self.state = State::Running(self.build(memory, event_idx)?);
        Ok(true)
    }

    fn build(&self, memory: &SharedMemory, event_idx: bool) -> Result<Queue, VringError> {
        let guest_addr = |address| -> Result<GuestAddress, VringError> {
            memory.guest_addr(address).ok_or(VringError::Address { address })
        };
        let mut queue = Queue::new(MAX_QUEUE_SIZE).map_err(VringError::Ring)?;
        queue
            .try_set_size(self.size)
            .and(queue.try_set_desc_table_address(guest_addr(self.addresses.descriptors)?))
            .and(queue.try_set_avail_ring_address(guest_addr(self.addresses.available)?))
            .and(queue.try_set_used_ring_address(guest_addr(self.addresses.used)?))
            .map_err(VringError::Ring)?;
        queue.set_ready(true);
        if !queue.is_valid(memory.guest()) {
            return Err(VringError::Bounds);
        }
        // vhost-user has no message for the used index: it is where the last back end left it.
        let used = queue.used_idx(memory.guest(), Ordering::Acquire).map_err(VringError::Ring)?;
        queue.set_next_avail(self.base);
        queue.set_next_used(used.0);
        queue.set_event_idx(event_idx);
        Ok(queue)
    }

    /// Checks a running queue against another memory table.
    pub fn revalidate(&mut self, memory: &SharedMemory) {
        if let State::Running(queue) = &self.state
            && !queue.is_valid(memory.guest())
        {
            self.give_up();
        }
    }

    /// The queue, if it runs and is enabled.
    pub fn running(&mut self) -> Option<&mut Queue> {
        match &mut self.state {
            State::Running(queue) if self.enabled => Some(queue),
            _ => None,
        }
    }

    /// The guest's rings lie: the queue is not touched until it is set up anew.
    pub fn give_up(&mut self) {
        if let State::Running(queue) = &self.state {
            self.state = State::Broken { next_avail: queue.next_avail() };
        }
    }

    /// Stops the queue and returns the available ring's index where it stopped.
    pub fn stop(&mut self) -> u16 {
        let next_avail = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Running(queue) => queue.next_avail(),
            State::Broken { next_avail } => next_avail,
            State::Stopped => self.base,
        };
        self.kick = None;
        self.call = None;
        self.base = next_avail;
        next_avail
    }

    /// Tells the guest that buffers were used.
    pub fn notify(&self) {
        // A guest that cannot be told polls, or waits: nothing to be done about either.
        if let Some(mut call) = self.call.as_ref()
            && let Err(error) = call.write_all(&1u64.to_ne_bytes())
        {
            tracing::debug!(%error, "vsock interrupt not delivered");
        }
    }

    fn is_frozen(&mut self) -> bool {
        let frozen = !matches!(self.state, State::Stopped);
        self.ignored += u64::from(frozen);
        frozen
    }
}

#[cfg(test)]
mod tests;
