//! New processes before their exec: clone3(2), and what such a child may do, since the caller has
//! threads: raw system calls on memory of its own, without an allocation.
#![allow(unsafe_code)]

use std::{
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{errno::Errno, unistd::Pid};

use super::Result;

/// linux/sched.h.
pub(super) const CLONE_PIDFD: u64 = 0x1000;
pub(super) const CLONE_PARENT: u64 = 0x8000;
pub(super) const CLONE_NEWUSER: u64 = 0x1000_0000;
pub(super) const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How many descriptors a child can be given; they become its 0, 1, 2, ...
pub const MAX_DESCRIPTORS: usize = 8;
/// Where the child parks its descriptors while it sorts them: above all final numbers.
const PARKING: libc::c_int = 16;
/// The exit status of a child whose exec failed.
pub(super) const EXEC_FAILED: libc::c_int = 127;
/// The signal of a child that everybody who waits for children hears of.
pub(super) const TOLD: libc::c_int = libc::SIGCHLD;
/// That of one whose end nobody is told of who does not ask for all kinds.
pub(super) const UNTOLD: libc::c_int = 0;

/// A process that was started.
#[derive(Debug)]
pub struct Child {
    /// As seen by the caller.
    pub pid: Pid,
    /// Refers to the process for as long as it is held.
    pub pidfd: OwnedFd,
}

impl Child {
    /// Of what clone(2) or clone3(2) have answered to the caller.
    pub(super) fn born(result: libc::c_long, pidfd: RawFd) -> Result<Self> {
        let pid = libc::pid_t::try_from(Errno::result(result)?).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: a call that succeeds has stored a new descriptor that nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { pid: Pid::from_raw(pid), pidfd })
    }
}

/// clone3(2) without shared memory, into a cgroup if one is given. `None` in the child.
pub(super) fn clone(
    flags: u64,
    exit_signal: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Option<Child>> {
    let mut pidfd: RawFd = -1;
    let arguments = libc::clone_args {
        flags: flags | CLONE_PIDFD | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: (&raw mut pidfd).addr() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: exit_signal.cast_unsigned().into(),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd().cast_unsigned().into()),
    };
    // SAFETY: without CLONE_VM this is fork(2): the child runs on a copy of this stack, and makes
    // raw system calls on copied values until it execs or exits.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    };
    if result == 0 { Ok(None) } else { Child::born(result, pidfd).map(Some) }
}

/// Ends the child.
pub(super) fn exit(status: libc::c_int) -> ! {
    // SAFETY: _exit runs no handlers of the parent's.
    unsafe { libc::_exit(status) }
}

/// Lets all signals through, as a new program expects them.
pub(super) fn unblock_signals() {
    let no_signal: u64 = 0;
    // SAFETY: the set is 8 bytes, as the kernel's sigset is.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const no_signal,
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Moves the descriptors to 0, 1, 2, ...: first all out of the way, then each to its place, where
/// it survives the exec.
pub(super) fn place(fds: &[RawFd; MAX_DESCRIPTORS]) -> bool {
    let mut parked: [RawFd; MAX_DESCRIPTORS] = [-1; MAX_DESCRIPTORS];
    for (slot, &fd) in parked.iter_mut().zip(fds) {
        if fd < 0 {
            break;
        }
        // SAFETY: fcntl on numbers; the child owns its whole descriptor table.
        *slot = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, PARKING) };
        if *slot < 0 {
            return false;
        }
    }
    for (number, &fd) in (0..).zip(&parked) {
        if fd < 0 {
            break;
        }
        // SAFETY: as above.
        if unsafe { libc::dup2(fd, number) } < 0 {
            return false;
        }
    }
    true
}
