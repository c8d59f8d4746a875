//! Virtio, virtio 1.2: what all devices share, and the devices.
//!
//! ```text
//! Offered --DRIVER_OK moves the queues in--> Active --reset--> Offered
//!                                              '-- rings that lie --> Broken --reset--> Offered
//! ```
//!
//! - [`device`]: what a transport needs of a device;
//! - [`interrupt`]: how a device tells the guest;
//! - [`queue`]: one pass over a queue, for every core;
//! - [`mmio`]: the transport, which is all that a driver sees of a device before its queues;
//! - [`testing`]: a driver's side of all this, for tests and fuzzers.
//!
//! A device's folder has `core`, plain functions over memory and a queue, and beside it what holds
//! descriptors.

pub mod balloon;
pub mod blk;
pub mod console;
pub mod device;
pub mod fs;
pub mod interrupt;
pub mod mem;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vsock;

pub use device::{ActivateError, Activation, Counters, Device, Kind, read_space};
pub use interrupt::Interrupt;
pub use queue::{Outcome, QueueError, Served};
