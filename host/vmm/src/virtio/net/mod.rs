//! The network device, virtio 1.2 §5.1: one pair of queues and a tap. No control queue: the host
//! sets address and MTU, and the driver does not change them.
//!
//! ```text
//! guest --TX queue--> core::transmit --limit--> tap --> host
//! guest <--RX queue-- core::receive <--limit-- tap <-- host
//! ```
//!
//! - [`core`]: both queues, over memory and any port;
//! - [`tap`]: the port;
//! - [`device`]: what the transport sees.

pub mod core;
pub mod device;
pub mod tap;

pub use self::core::Mac;
pub use device::{Config, Device, NetError};
