//! The system calls of the jail that no crate wraps, or that none can call safe.

#![allow(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// close_range(2): closes `first` to `last`. Whoever owns one of them in this process must not use
/// it again.
pub fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    let (first, last) = (first.cast_unsigned(), last.cast_unsigned());
    // SAFETY: no pointers. Descriptors that values still own become invalid, which the caller
    // answers for; no memory depends on them.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// A signal does what it does to a program that handles none.
pub fn forget_handler(signal: Signal) -> Result<(), Errno> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed, and nobody asks for the one that goes.
    unsafe { sigaction(signal, &default) }.map(drop)
}
