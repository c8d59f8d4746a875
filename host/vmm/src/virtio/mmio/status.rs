//! The device status, virtio 1.2 §2.1: what a driver may write to it when. Numbers only.
//!
//! ```text
//! 0 --ACKNOWLEDGE--> --DRIVER--> --FEATURES_OK--> --DRIVER_OK-->
//! anywhere --FAILED--> nothing but 0 from then on
//! ```

/// The guest has seen the device.
pub const ACKNOWLEDGE: u32 = 1;
/// It has a driver for it.
pub const DRIVER: u32 = 2;
/// The driver works.
pub const DRIVER_OK: u32 = 4;
/// The features are agreed on.
pub const FEATURES_OK: u32 = 8;
/// The device cannot go on. The device's to set.
pub const DEVICE_NEEDS_RESET: u32 = 64;
/// The driver gave up.
pub const FAILED: u32 = 128;

/// Up to where a driver may have climbed. Several rungs at once are allowed: nothing that a device
/// can see tells whether the driver looked in between.
const LADDER: [u32; 4] = [
    ACKNOWLEDGE,
    ACKNOWLEDGE | DRIVER,
    ACKNOWLEDGE | DRIVER | FEATURES_OK,
    ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
];

/// What a write to the status register asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Let go of everything.
    Reset,
    /// The driver gave up.
    Fail,
    /// Set these bits, which are not set.
    Set(u32),
    /// Nothing that may be asked for now.
    Illegal,
}

/// What `written` asks for when the status is `status`.
#[must_use]
pub fn request(status: u32, written: u32) -> Request {
    if written == 0 {
        return Request::Reset;
    }
    // A driver writes back what it read, with a bit added.
    let written = written & !DEVICE_NEEDS_RESET;
    let status = status & !DEVICE_NEEDS_RESET;
    if status & FAILED != 0 {
        return Request::Illegal;
    }
    if written & FAILED != 0 {
        return Request::Fail;
    }
    if status & !written != 0 || !LADDER.contains(&written) {
        return Request::Illegal;
    }
    Request::Set(written & !status)
}
