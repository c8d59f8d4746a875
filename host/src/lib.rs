//! husk: OCI containers, each sandbox in a virtual machine of its own.
//!
//! ```text
//! cli -> engine -> {image, hypervisor, guest, storage} -> sys
//! ```
//!
//! Siblings do not import each other: `engine` passes values between them.

pub mod cli;
pub mod engine;
pub mod guest;
pub mod hypervisor;
pub mod image;
pub mod storage;
pub mod sys;
