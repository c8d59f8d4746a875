//! The guest image: what a VM boots. An initramfs with the agent as init and nothing that is not
//! needed, the kernel beside it, and a manifest with versions and digests of both.
//!
//! Built without root and without mounts, and equal bit for bit whenever the inputs are: no
//! clock, no owner, no folder order of the host gets in. Compiles nothing: agent and kernel are
//! inputs.

mod agent;
mod cpio;
mod image;
mod kernel;
mod manifest;

pub use agent::AgentError;
pub use cpio::CpioError;
pub use image::{BuildError, Inputs, build};
pub use kernel::KernelError;
pub use manifest::{FileDigest, Kernel, Manifest};
