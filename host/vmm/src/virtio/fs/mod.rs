//! The file system device, virtio 1.2 §5.11, for the guest; behind it a vhost-user back end that
//! serves its queues: virtiofsd, in a process of its own. Nothing of FUSE is read here.
//!
//! ```text
//! guest --kick--> ioeventfd --------> back end: maps guest memory, serves the queues
//! guest <--irq--- irqfd <-----call--- back end
//! device --vhost-user: features, memory, queues--> back end
//! ```
//!
//! Neither kicks nor interrupts pass through this process. A back end that dies, lies or hangs is
//! given up: the guest is asked to reset the device, which then cannot be started again, and the
//! machine lives on.
//!
//! - [`back_end`]: requests and their replies, within a deadline;
//! - [`device`]: what the transport sees.

pub mod back_end;
pub mod device;
#[cfg(test)]
pub(crate) mod testing;

pub use back_end::{BackEnd, BackEndError};
pub use device::{Config, Device, FsError};
