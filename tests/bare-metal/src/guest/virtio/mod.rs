//! A driver for virtio devices behind MMIO that is honest where it is asked to be, and no further.
//!
//! [`Device`] finds and negotiates, [`Queue`] fills rings. Both give their addresses away, so that
//! a case can write there whatever it likes.

mod device;
mod queue;

pub use device::{Device, register, status};
pub use queue::{Buffer, FLAG_INDIRECT, FLAG_NEXT, FLAG_WRITE, Queue, Rings, write_descriptor};

/// Device types. virtio 1.2 §5.
pub mod kind {
    /// §5.1
    pub const NET: u32 = 1;
    /// §5.2
    pub const BLOCK: u32 = 2;
    /// §5.3
    pub const CONSOLE: u32 = 3;
    /// §5.4
    pub const ENTROPY: u32 = 4;
    /// §5.5
    pub const BALLOON: u32 = 5;
    /// §5.10
    pub const VSOCK: u32 = 19;
    /// §5.15
    pub const MEM: u32 = 24;
    /// §5.11
    pub const FS: u32 = 26;
}

/// Features of every device. virtio 1.2 §6.
pub mod feature {
    /// VIRTIO_F_INDIRECT_DESC
    pub const INDIRECT: u64 = 1 << 28;
    /// VIRTIO_F_EVENT_IDX
    pub const EVENT_INDEX: u64 = 1 << 29;
    /// VIRTIO_F_VERSION_1
    pub const VERSION_1: u64 = 1 << 32;
}
