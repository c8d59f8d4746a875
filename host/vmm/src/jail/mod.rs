//! The jail of the VMM's process: what a guest that took over the VMM would find.
//!
//! ```text
//! one thread, every descriptor open --enter--> threads are started
//!     --filter::install on each--> guest runs
//! ```
//!
//! Layers, each of which holds without the others:
//!
//! - [`descriptors`]: only those that the machine uses are open;
//! - [`namespaces`]: no network, no IPC, no mounts, an empty root;
//! - [`privileges`]: a user of its own, no capabilities, none to be gained;
//! - [`landlock`]: no files, no TCP, no signals to and no abstract sockets of others;
//! - [`filter`]: system calls of each thread, by seccomp.
//!
//! A host may refuse namespaces or lack Landlock; [`Report`] says what holds. The filters always
//! hold, and they alone refuse all that the other layers refuse. Works for root and for everybody
//! else. Knows no device.

mod descriptors;
pub mod filter;
mod landlock;
mod namespaces;
mod privileges;
mod report;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;

pub use report::{Layer, Report};

/// Why there is no jail. The process must end: it may be half inside.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Most layers only bind the calling thread.
    #[error("jail a process that has more than one thread")]
    Threads,
    /// A layer that every host has.
    #[error("jail: {call}")]
    Call {
        /// The operation.
        call: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is nobody to work for.
    #[error("jail: the parent process has ended")]
    Orphan,
    /// The filter cannot be built; a mistake in its table.
    #[error("jail: compile the filter of system calls")]
    Compile(#[source] seccompiler::BackendError),
    /// The kernel does not take the filter.
    #[error("jail: install the filter of system calls")]
    Install(#[source] seccompiler::Error),
}

/// For `map_err`: names the call.
fn call<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> JailError {
    move |error| JailError::Call { call, source: error.into() }
}

/// Goes into the jail, all layers but [`filter`]. To be called once, by a process of one thread
/// that has read its configuration and opened everything. Does not block.
///
/// Afterwards only the descriptors of `keep` and standard error are open; standard input and output
/// lead nowhere unless they are in `keep`. Whatever else was open is closed, also where a value in
/// this process still believes to own it: forget such values.
///
/// The kernel kills the process with the thread of its parent that started it. It makes no core
/// dump and cannot be traced; most of its folder in `/proc` belongs to root, so that a parent
/// without privileges reads there what everybody may: `stat`, `statm`, `status`.
///
/// # Errors
/// [`JailError`]. A layer that the host does not offer is no error, but is in the report.
pub fn enter(keep: &[BorrowedFd<'_>]) -> Result<Report, JailError> {
    single_threaded()?;
    let parent = getppid();
    descriptors::close_others(keep)?;
    // Core dumps hold the guest's memory.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(call("set RLIMIT_CORE"))?;
    prctl::set_no_new_privs().map_err(call("PR_SET_NO_NEW_PRIVS"))?;
    die_of_faults().map_err(call("forget the handlers of faults"))?;
    let entered = namespaces::enter();
    let root = namespaces::empty_root(&entered);
    let (user, capabilities) = privileges::drop_all(&entered)?;
    let (files, network, scopes) = landlock::restrict();
    undumpable()?;
    bind_to(parent)?;
    let namespaces = entered.layer();
    Ok(Report { namespaces, root, user, capabilities, files, network, scopes })
}

/// unshare(2): `CLONE_THREAD` does nothing for a process of one thread and is refused to others.
fn single_threaded() -> Result<(), JailError> {
    match unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => Ok(()),
        Err(Errno::EINVAL) => Err(JailError::Threads),
        Err(error) => Err(call("count threads")(error)),
    }
}

/// The standard library handles them to tell of stacks that are full, with calls that the filter
/// forbids: a fault would look like an attempt to leave.
fn die_of_faults() -> Result<(), Errno> {
    [Signal::SIGSEGV, Signal::SIGBUS].into_iter().try_for_each(sys::forget_handler)
}

/// No tracing by others of the same user, no core dump. A change of credentials sets it to what
/// the host's `fs.suid_dumpable` says, so it comes after.
fn undumpable() -> Result<(), JailError> {
    prctl::set_dumpable(false).map_err(call("PR_SET_DUMPABLE"))
}

/// A change of credentials forgets the signal that comes with the parent's end: prctl(2),
/// `PR_SET_PDEATHSIG`.
fn bind_to(parent: nix::unistd::Pid) -> Result<(), JailError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(call("PR_SET_PDEATHSIG"))?;
    // The parent may have ended while nothing was set.
    if getppid() == parent { Ok(()) } else { Err(JailError::Orphan) }
}
