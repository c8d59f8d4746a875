//! The kernel's calls that no safe package wraps, one file per subject. The only room with
//! `unsafe`; no policy lives here.

pub mod attribute;
pub mod bpf;
pub mod capability;
pub mod clone;
pub mod descriptor;
pub mod hook;
pub mod mount;
pub mod namespace;
pub mod network;
pub mod process;
pub mod random;
pub mod scheduling;
pub mod seccomp;
pub mod spawn;
pub mod terminal;
pub mod user_namespace;

/// What every call here returns.
pub use nix::Result;
