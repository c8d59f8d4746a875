//! Virtual machine monitor: device cores, the transports that carry them, and KVM.
//!
//! ```text
//! process -> {jail, control, machine} -> {boot, bus, virtio::mmio, legacy} -> memory -> layout
//! virtio::{blk, net, ...} -> virtio::{queue, device}
//! vhost_user -> vsock
//! virtio::{blk, net} -> rate_limit
//! probe -> KVM
//! ```
//!
//! A device core is plain functions over guest memory and a queue, without threads; transports own
//! the descriptors and call it. Knows no OCI, no images and no agent.

pub mod boot;
pub mod bus;
pub mod event_loop;
pub mod jail;
pub mod layout;
pub mod memory;
pub mod probe;
pub mod rate_limit;
pub mod vhost_user;
pub mod virtio;
pub mod vsock;

/// Guest memory as every room sees it. A clone is another handle on the same mapping.
pub type Memory = vm_memory::GuestMemoryMmap;
