//! How a device tells the guest that it used buffers or changed: the status register and an eventfd
//! that KVM turns into an interrupt. Takes no lock: the guest reads and acknowledges while the
//! device works.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// InterruptStatus: buffers were used. virtio 1.2 §4.2.2.
pub const STATUS_USED: u32 = 1;
/// InterruptStatus: the configuration changed. virtio 1.2 §4.2.2.
pub const STATUS_CONFIG: u32 = 2;

/// The interrupt of one device.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    event: EventFd,
}

impl Interrupt {
    /// An interrupt that nobody listens to yet.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self { status: AtomicU32::new(0), event: EventFd::from_flags(flags)? })
    }

    /// Buffers were used. Whether the guest wants to know is for the caller to ask of the queue.
    pub fn used(&self) {
        self.raise(STATUS_USED);
    }

    /// The configuration space changed.
    pub fn config_changed(&self) {
        self.raise(STATUS_CONFIG);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // EAGAIN: as many as fit already wait, and one is enough.
        let _ = self.event.write(1);
    }

    /// The InterruptStatus register.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The InterruptACK register was written.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// The device was reset.
    pub fn clear(&self) {
        self.status.store(0, Ordering::SeqCst);
    }
}

/// For KVM_IRQFD, and for tests that wait.
impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
