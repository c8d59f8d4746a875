//! The block device: a raw image for the guest, virtio 1.2 §5.2.
//!
//! ```text
//! queue --chain--> request --admitted by the limits--> task --steps--> engine --> file
//!   ^                 |                                                   |
//!   '--status, used---+------------------ completion <--------------------'
//! ```
//!
//! - [`request`]: what a chain asks for, or why it is refused;
//! - [`core`]: the queue, as plain functions: what is taken, refused and given back;
//! - [`task`]: a request as steps on a file; [`segments`]: the memory that it moves;
//! - [`engine`]: who does the steps: io_uring, or threads;
//! - [`image`]: the file, and whether it can be a disk at all;
//! - [`device`]: all of them behind [`super::Device`]; where the configuration space is.
//!
//! Images are raw: nothing in a file is ever read to find out what it is. One queue is offered: one
//! thread serves all devices of a machine, so more queues would share it, and io_uring takes
//! requests of one queue as deep as it is.

pub mod core;
pub mod device;
pub mod engine;
pub mod image;
pub mod request;
pub mod segments;
pub mod task;

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

pub use device::{Device, DeviceError};
pub use engine::EngineKind;
pub use image::ImageError;

use crate::rate_limit::Limits;

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Descriptor of the raw image: a file, or a block device of the host.
    pub file: RawFd,
    /// What the guest finds it by: at most 20 printable characters.
    pub serial: String,
    /// The guest may not change it. The device sees to that, whatever the driver does.
    #[serde(default)]
    pub read_only: bool,
    /// Nobody misses it after a crash of the host: nothing is forced to stable storage.
    #[serde(default)]
    pub disposable: bool,
    /// Who does the work.
    #[serde(default)]
    pub engine: EngineKind,
    /// What the guest may do in a time.
    #[serde(default)]
    pub limits: Limits,
}
