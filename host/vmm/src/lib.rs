//! Virtual machine monitor: device cores, the transports that carry them, and KVM.
//!
//! ```text
//! {vhost_user} -> {vsock} -> queues and memory of the guest
//! {probe} -> KVM
//! ```
//!
//! A device core is plain functions over guest memory and a queue, without threads; transports own
//! the descriptors and call it. Knows no OCI, no images and no agent.

pub mod probe;
pub mod vhost_user;
pub mod vsock;
