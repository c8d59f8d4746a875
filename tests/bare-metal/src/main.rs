//! Guests without a kernel: one ELF for a machine with nothing but processors, memory and devices.
//!
//! The word `case=NAME` of the command line chooses what it runs. It asserts, writes lines on the
//! serial port, `PASSED` the last of them, and resets the machine; what fails writes `FAILED`,
//! where and what. It starts at the 64-bit entry of Linux's boot protocol and at the PVH entry
//! alike, so under husk's VMM and under QEMU's `microvm`.
//!
//! Built for x86_64-unknown-linux-musl by `make inits`; for any other target it is an empty
//! program, so that the workspace builds.

#![cfg_attr(target_env = "musl", no_std, no_main)]

#[cfg(target_env = "musl")]
mod guest;

#[cfg(not(target_env = "musl"))]
fn main() {
    eprintln!("a guest, which no operating system runs: see make inits");
}
