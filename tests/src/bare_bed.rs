//! Guests without a kernel (tests/bare-metal) in the built-in VMM's real process: with devices of
//! the test's choice, over the same descriptors, jail and control socket as any container's. And in
//! QEMU's `microvm`, for what has to be the same there.
//!
//! ```text
//! Setup --start--> Guest --line, control, vsock--> Guest --finish--> Ended
//! ```

mod guest;
mod held;
mod qemu;
mod serial;
mod setup;
mod share;
mod tap;

pub use guest::{Ended, Guest};
pub use held::Held;
pub use qemu::{Accelerator, InQemu, run_in_qemu};
pub use setup::{Disk, Kernel, Linux, Protocol, Setup, Size};
pub use share::{Fault, Share, Virtiofsd, YesServer, pattern};
pub use tap::Tap;

use std::fs::File;

/// KVM's device, or why there is none.
///
/// # Errors
/// With the device's name.
pub fn open_kvm() -> Result<File, String> {
    let device = husk::hypervisor::builtin::KVM;
    let opened = File::options().read(true).write(true).open(device);
    opened.map_err(|error| format!("open {device}: {error}"))
}
