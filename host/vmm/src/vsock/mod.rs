//! The vsock device: byte streams between guest and host, virtio 1.2 §5.10.
//!
//! ```text
//! guest --tx queue--> device --> muxer --> connection --> host stream (one end of a socket pair)
//! guest <--rx queue-- device <-- muxer <-- connection <-- host stream
//! ```
//!
//! - [`packet`]: the header and nothing else;
//! - [`buffer`], [`credit`]: what a connection holds and may hold;
//! - [`connection`]: one stream's state machine;
//! - [`muxer`]: the table of connections and of listening host ports;
//! - [`device`]: the two queues, driven by any transport;
//! - [`handle`], [`streams`]: the host's side, where descriptors begin;
//! - [`relay`]: the same handle for a device in another process.
//!
//! Everything the guest sends is hostile. What it can make the host hold is bounded by
//! [`Limits`], whatever it does.

pub mod buffer;
pub mod connection;
pub mod credit;
pub mod device;
pub mod handle;
pub mod muxer;
pub mod packet;
pub mod relay;
pub mod streams;

#[cfg(test)]
pub(crate) mod testing;

pub use handle::{VsockHandle, VsockListener};

/// Addresses and bounds of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The guest's address, at least 3. virtio 1.2 §5.10.4.
    pub guest_cid: u64,
    /// The host's address, 2 by the specification.
    pub host_cid: u64,
    /// What the guest may make the host hold.
    pub limits: Limits,
}

/// Bounds of one device. With the defaults the most that a guest can make the host hold is
/// about 31 MiB of bytes that nobody reads; the host's own writers can add as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time, of both directions.
    pub connections: usize,
    /// Connections that a guest opened and nobody has accepted, per listening port.
    pub backlog: usize,
    /// Connections that get [`Self::buffer_bytes`] each way; the others get
    /// [`Self::small_buffer_bytes`].
    pub large_connections: usize,
    /// Bytes of one direction of a connection.
    pub buffer_bytes: u32,
    /// Bytes of one direction of a connection beyond [`Self::large_connections`].
    pub small_buffer_bytes: u32,
    /// Resets that wait for the guest to give receive buffers. When as many wait, the guest's
    /// packets are left in its queue. virtio 1.2 §5.10.6.2.
    pub pending_resets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            backlog: 64,
            large_connections: 64,
            buffer_bytes: 256 << 10,
            small_buffer_bytes: 16 << 10,
            pending_resets: 256,
        }
    }
}
