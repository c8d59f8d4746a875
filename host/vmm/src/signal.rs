//! The signal that takes a thread out of KVM_RUN, and does nothing else. By itself it can be lost:
//! who needs to be sure sends it again, or has a flag beside it.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use nix::errno::Errno;

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// Gives `SIGRTMIN` an action that does nothing, so that it interrupts KVM_RUN and harms nobody.
///
/// # Errors
/// Those of sigaction(2).
pub fn install() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = do_nothing;
    let action = libc::sigaction {
        sa_sigaction: handler as libc::sighandler_t,
        sa_mask: no_signals(),
        sa_flags: 0,
        sa_restorer: None,
    };
    // SAFETY: `action` outlives the call, the old action is not asked for, and the handler touches
    // nothing, so it may run at any point of any thread.
    match unsafe { libc::sigaction(libc::SIGRTMIN(), &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the signal reach this thread, whatever mask the process was started with.
///
/// # Errors
/// Those of pthread_sigmask(3).
pub fn unblock() -> io::Result<()> {
    let mut signals = no_signals();
    // SAFETY: `signals` is a set that was made empty, and outlives the call.
    if unsafe { libc::sigaddset(&raw mut signals, libc::SIGRTMIN()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `signals` outlives the call, and the old mask is not asked for.
    let result = unsafe {
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        error => Err(Errno::from_raw(error).into()),
    }
}

fn no_signals() -> libc::sigset_t {
    let mut signals = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is to a set that may be written.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: a set is numbers, and all of them were written.
    unsafe { signals.assume_init() }
}

/// Sends it to a thread.
pub fn send<T>(thread: &JoinHandle<T>) {
    // SAFETY: the thread was not joined, so its id is its own. It may have ended: then the signal
    // goes nowhere.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGRTMIN()) };
}
