//! What a transport and the event loop need of a device. Knows no transport.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use virtio_queue::Queue;

use super::Interrupt;
use crate::Memory;

/// Device types. virtio 1.2 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// §5.1
    Net = 1,
    /// §5.2
    Block = 2,
    /// §5.3
    Console = 3,
    /// §5.4
    Entropy = 4,
    /// §5.5
    Balloon = 5,
    /// §5.10
    Vsock = 19,
    /// §5.15
    Mem = 24,
    /// §5.11
    Fs = 26,
}

impl Kind {
    /// For people and for statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Block => "block",
            Self::Console => "console",
            Self::Entropy => "entropy",
            Self::Balloon => "balloon",
            Self::Vsock => "vsock",
            Self::Mem => "mem",
            Self::Fs => "fs",
        }
    }
}

/// What the driver's DRIVER_OK hands to a device: it is moved in, and comes back by no way but a
/// reset.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub memory: Memory,
    /// The device's queues in their order, checked to lie in memory; `None` where the driver set up
    /// none.
    pub queues: Vec<Option<Queue>>,
    /// The features that both sides have, the transport's among them.
    pub features: u64,
    /// How to tell the guest.
    pub interrupt: Arc<Interrupt>,
}

/// Why a device cannot work for this driver; the transport then asks for a reset by
/// DEVICE_NEEDS_RESET.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("activate {} device: {reason}", kind.name())]
pub struct ActivateError {
    /// Of the device.
    pub kind: Kind,
    /// For people.
    pub reason: String,
}

/// Numbers of one device since the machine started, by name: lower case, units last
/// (`read_bytes`). `malformed` counts chains that make no sense, `ignored` requests that came too
/// late.
pub type Counters = BTreeMap<&'static str, u64>;

/// A device, behind any transport. Called under one lock, from the event loop and, for
/// configuration space, activation and reset, from the threads of virtual CPUs. Nothing here blocks
/// for long.
pub trait Device: Any + Send {
    /// Its type.
    fn kind(&self) -> Kind;

    /// Features of its own that it offers. The transport adds VIRTIO_F_VERSION_1 and those of the
    /// rings (indirect descriptors, event index).
    fn features(&self) -> u64;

    /// The most descriptors of each of its queues.
    fn queue_sizes(&self) -> &[u16];

    /// Reads its configuration space. Bytes beyond its end are left as they are: zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes its configuration space. What cannot be written is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready: the device takes its queues. Only called on a device that is not
    /// active.
    ///
    /// # Errors
    /// [`ActivateError`]: the device stays inactive.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// The driver lets go: nothing touches guest memory or the queues when this returns. May block
    /// until requests in flight are done. Of an inactive device, does nothing.
    fn reset(&mut self);

    /// Waits until nothing of the device writes to guest memory, at most until then, while no
    /// processor of the guest runs: what is at work is ended and given back, and nothing is begun
    /// before the device's next turn. False when the time was up. What a device only does in its
    /// turns has nothing to wait for.
    fn rest(&mut self, until: Instant) -> bool {
        let _ = until;
        true
    }

    /// The guest added to queue `index`, or says so, or the device asked for another turn with
    /// [`Interrupt::again`]. Each queue that there is gets one when the device becomes active. One
    /// pass over the queue is enough: with more to do, the device asks for another turn.
    fn on_kick(&mut self, index: usize);

    /// Whether somebody else serves the queues and takes the kicks, [`Interrupt::kicks`]: then the
    /// event loop leaves them alone, and [`Self::on_kick`] is never called. The same for all of the
    /// device's life.
    fn takes_kicks(&self) -> bool {
        false
    }

    /// Descriptors to be watched from the start to the end of the device, edge-triggered: whoever
    /// gets an event works until it would block, or remembers that it may go on.
    fn sources(&self) -> Vec<(BorrowedFd<'_>, EpollFlags)> {
        Vec::new()
    }

    /// The source at `index` of [`Self::sources`] has an event.
    fn on_source(&mut self, index: usize, events: EpollFlags) {
        let _ = (index, events);
    }

    /// What it counted.
    fn counters(&self) -> Counters;
}

/// Reads a configuration space that is `space`, for [`Device::read_config`].
pub fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..));
    for (byte, value) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *byte = *value;
    }
}
