//! The wires of a device. To the guest: the status register and an eventfd that KVM turns into an
//! interrupt. From the guest: an eventfd for each queue, by which a device also asks for another
//! turn of its own. Takes no lock: the guest reads and acknowledges while the device works.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::queue::{Outcome, QueueError};

/// InterruptStatus: buffers were used. virtio 1.2 §4.2.2.
pub const STATUS_USED: u32 = 1;
/// InterruptStatus: the configuration changed. virtio 1.2 §4.2.2.
pub const STATUS_CONFIG: u32 = 2;

/// The interrupt of one device, and the kicks of its queues.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    /// Bits of the status that are set whatever was acknowledged.
    held: AtomicU32,
    generation: AtomicU32,
    needs_reset: AtomicBool,
    event: EventFd,
    kicks: Vec<EventFd>,
}

impl Interrupt {
    /// An interrupt that nobody listens to yet, and kicks of as many queues.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn with_queues(queues: usize) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = || EventFd::from_flags(flags).map_err(io::Error::from);
        Ok(Self {
            status: AtomicU32::new(0),
            held: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            event: event()?,
            kicks: (0..queues).map(|_| event()).collect::<io::Result<_>>()?,
        })
    }

    /// Buffers were used. Whether the guest wants to know is for the caller to ask of the queue.
    pub fn used(&self) {
        self.raise(STATUS_USED);
    }

    /// From now to the next reset, the status says that buffers were used: somebody signals the
    /// eventfd who cannot set the status, a vhost-user back end. The guest looks at its queues more
    /// often than it has to.
    pub fn hold_used(&self) {
        self.held.store(STATUS_USED, Ordering::SeqCst);
    }

    /// The configuration space changed. To be called under the lock under which it was changed, so
    /// that the guest sees no mixture of two.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.raise(STATUS_CONFIG);
    }

    /// The device cannot go on, because a ring lies or it failed: the guest is told, the transport
    /// resets the device when the call into it returns, and nothing touches the queues until the
    /// driver has reset it too. virtio 1.2 §2.1.2.
    pub fn needs_reset(&self) {
        if !self.needs_reset.swap(true, Ordering::SeqCst) {
            self.raise(STATUS_CONFIG);
        }
    }

    /// Whether [`Self::needs_reset`] was called since the last reset.
    #[must_use]
    pub fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Queue `index` gets another turn after the other devices have had theirs, as if the guest had
    /// kicked it: a pass ended before the queue did. May be called from any thread.
    pub fn again(&self, index: usize) {
        if let Some(kick) = self.kicks.get(index) {
            // EAGAIN: it is pending more than often enough.
            let _ = kick.write(1);
        }
    }

    /// Does what has to be done after a pass over queue `index`: tells the guest, asks for another
    /// turn, or gives up because the ring lies.
    pub fn settle(&self, index: usize, passed: &Result<Outcome, QueueError>) {
        match passed {
            Ok(outcome) => {
                if outcome.notify {
                    self.used();
                }
                if outcome.more {
                    self.again(index);
                }
            }
            Err(error) => {
                tracing::debug!(queue = index, %error, "queue is broken");
                self.needs_reset();
            }
        }
    }

    /// One for each queue; readable while the queue waits for its turn.
    #[must_use]
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // EAGAIN: as many as fit already wait, and one is enough.
        let _ = self.event.write(1);
    }

    /// The InterruptStatus register.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst) | self.held.load(Ordering::SeqCst)
    }

    /// The InterruptACK register was written.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// The ConfigGeneration register: goes on over resets.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The device was reset.
    pub fn clear(&self) {
        self.needs_reset.store(false, Ordering::SeqCst);
        self.held.store(0, Ordering::SeqCst);
        self.status.store(0, Ordering::SeqCst);
    }
}

/// For KVM_IRQFD, and for tests that wait.
impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
