//! Virtual machine monitor: device cores, the transports that carry them, and KVM.
//!
//! ```text
//! process -> {jail, control, config, event_loop, machine} -> {boot, legacy, virtio::mmio}
//!         -> {virtio::blk, virtio::net, ...} -> vsock -> virtio::{device, interrupt, queue}
//!         -> {memory, rate_limit, bus, channel, signal} -> layout
//! vhost_user -> vsock          probe -> signal
//! ```
//!
//! A device core is plain functions over guest memory and a queue, without threads; transports own
//! the descriptors and call it. Knows no OCI, no images and no agent.

pub mod boot;
pub mod bus;
pub mod channel;
pub mod config;
pub mod control;
pub mod event_loop;
#[cfg(any(test, feature = "testing"))]
pub mod input;
pub mod jail;
pub mod layout;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod probe;
pub mod process;
pub mod rate_limit;
mod signal;
pub mod vhost_user;
pub mod virtio;
pub mod vsock;

pub use memory::Memory;
