//! The vsock device served to another VMM over vhost-user, "Vhost-user Protocol" of the QEMU
//! documentation. Carries the device core; knows nothing of packets.
//!
//! - [`memory`]: the guest's memory as the front end shares it;
//! - [`vring`]: a queue's set-up, frozen when it starts;
//! - [`backend`]: the front end's requests;
//! - [`server`]: the thread that serves one front end.

pub mod backend;
pub mod memory;
pub mod server;
pub mod vring;

pub use server::{Progress, Server, ServerError, serve};
