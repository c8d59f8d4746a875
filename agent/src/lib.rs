//! The guest's only program: PID 1 of the virtual machine, and, started again, the second stage of
//! each process in a container.
//!
//! ```text
//! boot -> server -> supervisor -> {storage, cgroup, container, stdio} -> {mount, network, seccomp} -> sys
//! ```
//!
//! A library only so that fuzzers and tests reach [`input`]; the program is `main.rs`.

mod boot;
mod cgroup;
mod container;
mod failure;
pub mod input;
mod mount;
mod network;
mod seccomp;
mod server;
mod spec;
mod stdio;
mod storage;
mod supervisor;
mod sys;

use std::{os::unix::ffi::OsStrExt, process::ExitCode};

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything of the runtime: the second stage is small and has one thread.
    let name = std::env::args_os().next().unwrap_or_default();
    if name.as_bytes() == container::STAGE_NAME.to_bytes() {
        return container::run();
    }
    if std::process::id() != 1 {
        eprintln!("husk-agent: this program is the first process of a husk guest");
        return ExitCode::FAILURE;
    }
    boot::run()
}
