//! What the monitor asks of a running VMM, and what the VMM tells: typed messages over a socket
//! that the VMM inherits.
//!
//! ```text
//! Client --Call{id, Request}--> Server --Done / Statistics / Refused, with the same id--> Client
//!                                      --Event-->
//! ```
//!
//! Requests are answered in their order. A peer that goes, or that says what makes no sense, is the
//! end of the VMM.

mod client;
mod message;
mod server;

pub use client::{Client, ClientError};
pub use message::{Call, DeviceStatistics, Event, MemoryUse, Message, Reply, Request, Statistics};
pub use server::{ControlError, Server};
