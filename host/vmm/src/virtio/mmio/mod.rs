//! The transport over memory-mapped registers, virtio 1.2 §4.2, version 2: negotiates features,
//! holds what the driver says of its queues, and hands them to the device when the driver is ready.
//! Knows no particular device.
//!
//! ```text
//! Offered --DRIVER_OK--> Active --status 0--> Offered
//!    |                     '-- rings that lie, FAILED --> Stopped --status 0--> Offered
//!    '-- DRIVER_OK with rings that are none --> Stopped
//! ```
//!
//! What a driver may not do now is ignored and counted. A device that is not active gets no kicks.

pub mod registers;
pub mod status;

use std::any::Any;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::epoll::EpollFlags;
use nix::sys::eventfd::EventFd;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::Queue;

use self::registers::{CONFIG_SPACE, Half, QueueRegister, Register, Ring};
use self::status::{DEVICE_NEEDS_RESET, DRIVER_OK, FAILED, FEATURES_OK};
use super::queue::{QueueConfig, SetupError};
use super::{ActivateError, Activation, Counters, Device, Interrupt};
use crate::Memory;
use crate::bus::Registers;

/// Features that the transport offers beside the device's own.
pub const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// One device on the bus.
pub struct Transport {
    interrupt: Arc<Interrupt>,
    /// Accesses of a width or at a place that the specification does not allow.
    bad_accesses: AtomicU64,
    state: Mutex<State>,
}

/// What the lock is for.
struct State {
    device: Box<dyn Device>,
    memory: Memory,
    /// Without DEVICE_NEEDS_RESET, which the interrupt knows.
    status: u32,
    features: Features,
    queue_sel: u32,
    queues: Vec<QueueConfig>,
    /// The device has the queues.
    active: bool,
    counts: Counts,
}

/// What is offered, and what the driver takes of it, half by half.
struct Features {
    offered: u64,
    taken: u64,
    /// The driver took features beyond the 64th, of which there are none.
    took_unknown: bool,
    device_sel: u32,
    driver_sel: u32,
}

/// Numbers since the machine started.
#[derive(Default)]
struct Counts {
    activations: u64,
    ignored: u64,
    needed_resets: u64,
    resets: u64,
}

impl Transport {
    /// A device that no driver has found.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new(device: Box<dyn Device>, memory: Memory) -> io::Result<Self> {
        let queues: Vec<_> = device.queue_sizes().iter().copied().map(QueueConfig::new).collect();
        let interrupt = Arc::new(Interrupt::with_queues(queues.len())?);
        let state = State {
            features: Features::offer(device.features() | TRANSPORT_FEATURES),
            device,
            memory,
            status: 0,
            queue_sel: 0,
            queues,
            active: false,
            counts: Counts::default(),
        };
        Ok(Self { interrupt, bad_accesses: AtomicU64::new(0), state: Mutex::new(state) })
    }

    /// One for each queue, to be signalled for a write of the queue's index to
    /// [`registers::QUEUE_NOTIFY`].
    #[must_use]
    pub fn kicks(&self) -> &[EventFd] {
        self.interrupt.kicks()
    }

    /// How the device tells the guest.
    #[must_use]
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// The device, locked.
    pub fn device(&self) -> DeviceGuard<'_> {
        DeviceGuard { interrupt: &self.interrupt, state: self.lock() }
    }

    /// Queue `index` was kicked: its turn. Does nothing while the device has no queues.
    pub fn on_kick(&self, index: usize) {
        let mut device = self.device();
        if device.state.active && !self.interrupt.is_reset_needed() {
            device.on_kick(index);
        }
    }

    /// The device's source `index` has an event.
    pub fn on_source(&self, index: usize, events: EpollFlags) {
        self.device().on_source(index, events);
    }

    /// What the device and the transport counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let state = self.lock();
        let mut counters = state.device.counters();
        counters.extend([
            ("transport_activations", state.counts.activations),
            ("transport_bad_accesses", self.bad_accesses.load(Ordering::Relaxed)),
            ("transport_ignored", state.counts.ignored),
            ("transport_needed_resets", state.counts.needed_resets),
            ("transport_resets", state.counts.resets),
        ]);
        counters
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bad_access(&self) {
        self.bad_accesses.fetch_add(1, Ordering::Relaxed);
    }

    /// What is read without the lock, because the guest's interrupt handler does.
    fn read_register(&self, register: Register) -> u32 {
        match register {
            Register::InterruptStatus => self.interrupt.status(),
            Register::MagicValue => registers::MAGIC,
            Register::Version => registers::VERSION,
            Register::VendorId => registers::VENDOR,
            Register::SharedMemory => registers::NO_SHARED_MEMORY,
            _ => self.lock().read(register, &self.interrupt),
        }
    }

    fn write_register(&self, register: Register, value: u32) {
        match register {
            Register::InterruptAck => self.interrupt.acknowledge(value),
            // Whichever is selected, there is none.
            Register::SharedMemory => {}
            Register::QueueNotify => match usize::try_from(value) {
                Ok(index) if index < self.kicks().len() => self.interrupt.again(index),
                _ => self.bad_access(),
            },
            _ => self.lock().write(register, value, &self.interrupt),
        }
    }
}

impl Registers for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            return self.lock().device.read_config(offset, data);
        }
        match (Register::at(offset), <&mut [u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => *data = self.read_register(register).to_le_bytes(),
            _ => self.bad_access(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            let mut device = self.device();
            if device.state.may_write_config() && !self.interrupt.is_reset_needed() {
                device.write_config(offset, data);
            } else {
                device.state.counts.ignored += 1;
            }
            return;
        }
        match (Register::at(offset), <[u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => self.write_register(register, u32::from_le_bytes(data)),
            _ => self.bad_access(),
        }
    }
}

impl State {
    fn read(&self, register: Register, interrupt: &Interrupt) -> u32 {
        let queue = self.selected();
        match register {
            Register::DeviceId => self.device.kind() as u32,
            Register::DeviceFeatures => half(self.features.offered, self.features.device_sel),
            Register::Queue(QueueRegister::NumMax) => {
                queue.map_or(0, |queue| u32::from(queue.max_size))
            }
            Register::Queue(QueueRegister::Ready) => {
                queue.map_or(0, |queue| u32::from(queue.ready))
            }
            Register::Status if interrupt.is_reset_needed() => self.status | DEVICE_NEEDS_RESET,
            Register::Status => self.status,
            Register::ConfigGeneration => interrupt.generation(),
            // Those that can only be written.
            _ => 0,
        }
    }

    fn write(&mut self, register: Register, value: u32, interrupt: &Arc<Interrupt>) {
        match register {
            Register::DeviceFeaturesSel => self.features.device_sel = value,
            Register::DriverFeaturesSel => self.features.driver_sel = value,
            Register::DriverFeatures => self.take_features(value),
            Register::Queue(QueueRegister::Sel) => self.queue_sel = value,
            Register::Queue(register) => self.write_queue(register, value),
            Register::Status => self.write_status(value, interrupt),
            // Those that can only be read.
            _ => self.counts.ignored += 1,
        }
    }

    fn selected(&self) -> Option<&QueueConfig> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn take_features(&mut self, value: u32) {
        if self.status != status::ACKNOWLEDGE | status::DRIVER {
            self.counts.ignored += 1;
            return;
        }
        self.features.take(value);
    }

    /// Queues are set up between FEATURES_OK and DRIVER_OK, and one that is ready is left alone.
    fn write_queue(&mut self, register: QueueRegister, value: u32) {
        let open = self.status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK;
        let selected = usize::try_from(self.queue_sel).ok();
        let queue = selected.and_then(|index| self.queues.get_mut(index)).filter(|_| open);
        match (queue, register) {
            (Some(queue), QueueRegister::Ready) => queue.ready = value == 1,
            (Some(queue), QueueRegister::Num) if !queue.ready => queue.size = value,
            (Some(queue), QueueRegister::Ring(ring, half)) if !queue.ready => {
                let address = match ring {
                    Ring::Desc => &mut queue.descriptors,
                    Ring::Driver => &mut queue.available,
                    Ring::Device => &mut queue.used,
                };
                *address = half.put(*address, value);
            }
            _ => self.counts.ignored += 1,
        }
    }

    fn may_write_config(&self) -> bool {
        // virtio 1.2 §3.1.1: read, and not written, before the features are agreed on.
        self.status & (FEATURES_OK | FAILED) == FEATURES_OK
    }

    fn write_status(&mut self, written: u32, interrupt: &Arc<Interrupt>) {
        match status::request(self.status, written) {
            status::Request::Reset => self.reset(interrupt),
            status::Request::Fail => {
                self.status |= FAILED;
                self.stop();
            }
            status::Request::Set(bits) => self.climb(bits, interrupt),
            status::Request::Illegal => self.counts.ignored += 1,
        }
    }

    fn reset(&mut self, interrupt: &Interrupt) {
        self.stop();
        interrupt.clear();
        self.counts.resets += 1;
        self.status = 0;
        self.features = Features::offer(self.features.offered);
        self.queue_sel = 0;
        for queue in &mut self.queues {
            *queue = QueueConfig::new(queue.max_size);
        }
    }

    /// The device lets go of its queues. They stay frozen.
    fn stop(&mut self) {
        if self.active {
            self.active = false;
            self.device.reset();
        }
    }

    /// Sets bits of the status that may be set now.
    fn climb(&mut self, bits: u32, interrupt: &Arc<Interrupt>) {
        self.status |= bits & !(FEATURES_OK | DRIVER_OK);
        if bits & FEATURES_OK != 0 {
            if !self.features.are_fine() {
                self.counts.ignored += 1;
                return;
            }
            self.status |= FEATURES_OK;
        }
        if bits & DRIVER_OK != 0 {
            self.status |= DRIVER_OK;
            if let Err(error) = self.activate(interrupt) {
                tracing::debug!(device = self.device.kind().name(), %error, "not activated");
                self.counts.needed_resets += 1;
                interrupt.needs_reset();
            }
        }
    }

    fn activate(&mut self, interrupt: &Arc<Interrupt>) -> Result<(), ActivateError> {
        let event_idx = self.features.taken & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let memory = self.memory.clone();
        let queues: Result<Vec<Option<Queue>>, SetupError> =
            self.queues.iter().map(|queue| queue.activate(&memory, event_idx)).collect();
        let queues = queues.map_err(|error| ActivateError {
            kind: self.device.kind(),
            reason: error.to_string(),
        })?;
        let there: Vec<usize> =
            (0..queues.len()).filter(|&index| queues[index].is_some()).collect();
        let (features, interrupt) = (self.features.taken, interrupt.clone());
        let activation = Activation { memory, queues, features, interrupt: interrupt.clone() };
        self.device.activate(activation)?;
        self.active = true;
        self.counts.activations += 1;
        // Buffers may have been added before the driver was ready, and kicks before that were lost.
        there.into_iter().for_each(|index| interrupt.again(index));
        Ok(())
    }
}

impl Features {
    fn offer(offered: u64) -> Self {
        Self { offered, taken: 0, took_unknown: false, device_sel: 0, driver_sel: 0 }
    }

    /// The driver takes 32 of them.
    fn take(&mut self, value: u32) {
        match self.driver_sel {
            0 => self.taken = Half::Low.put(self.taken, value),
            1 => self.taken = Half::High.put(self.taken, value),
            _ => self.took_unknown |= value != 0,
        }
    }

    /// Whether the device can work so.
    fn are_fine(&self) -> bool {
        let must = 1 << VIRTIO_F_VERSION_1;
        !self.took_unknown && self.taken & !self.offered == 0 && self.taken & must == must
    }
}

/// 32 of 64 bits.
fn half(bits: u64, index: u32) -> u32 {
    let bytes = bits.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    match index {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

/// The device under its lock. When it goes, a device that said that it cannot go on has been reset.
pub struct DeviceGuard<'a> {
    interrupt: &'a Interrupt,
    state: MutexGuard<'a, State>,
}

impl DeviceGuard<'_> {
    /// The device as what it is, for who knows.
    pub fn downcast_mut<D: Device>(&mut self) -> Option<&mut D> {
        let device: &mut dyn Any = &mut *self.state.device;
        device.downcast_mut()
    }
}

impl Deref for DeviceGuard<'_> {
    type Target = dyn Device;

    fn deref(&self) -> &Self::Target {
        &*self.state.device
    }
}

impl DerefMut for DeviceGuard<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.state.device
    }
}

impl Drop for DeviceGuard<'_> {
    fn drop(&mut self) {
        if self.state.active && self.interrupt.is_reset_needed() {
            self.state.counts.needed_resets += 1;
            self.state.stop();
        }
    }
}

#[cfg(test)]
mod tests;
