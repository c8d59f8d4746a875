//! Starts the second stage: clone3(2) and one exec. Between the two the child makes raw system
//! calls only, since the caller has threads.
//!
//! The child is born with a copy of the memory, slow as that is. As vfork(2) has it, the caller would
//! sleep until the exec, which a container that freezes its own cgroup could put off for ever; and who
//! may trace a child that shares the memory has the agent's.
#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    unistd::Pid,
};

use super::Result;

/// linux/sched.h.
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How many descriptors a child can be given; they become its 0, 1, 2, ...
pub const MAX_DESCRIPTORS: usize = 5;
/// Where the child parks its descriptors while it sorts them: above all final numbers.
const PARKING: libc::c_int = 16;
/// The exit status of a child whose exec failed.
const EXEC_FAILED: libc::c_int = 127;

/// Which pid namespace the child becomes a member of.
#[derive(Debug, Clone, Copy)]
pub enum PidNamespace<'a> {
    /// One of its own, as its process 1.
    New,
    /// That of the process behind a pidfd.
    Of {
        /// A member of the namespace.
        member: BorrowedFd<'a>,
        /// The caller's own `/proc/self/ns/pid`, to come back to.
        own: BorrowedFd<'a>,
    },
}

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program, open.
    pub program: BorrowedFd<'a>,
    /// Its only argument.
    pub name: &'a CStr,
    /// At most [`MAX_DESCRIPTORS`].
    pub descriptors: &'a [BorrowedFd<'a>],
    /// A cgroup v2 folder, open.
    pub cgroup: BorrowedFd<'a>,
    /// Where its pid is counted.
    pub pid_namespace: PidNamespace<'a>,
}

/// A process that was started.
#[derive(Debug)]
pub struct Child {
    /// As seen by the caller.
    pub pid: Pid,
    /// Refers to the process for as long as it is held.
    pub pidfd: OwnedFd,
}

/// Comes back to the caller's own pid namespace, whatever happens in between.
struct Visit<'a> {
    own: BorrowedFd<'a>,
}

impl<'a> Visit<'a> {
    fn begin(member: BorrowedFd<'_>, own: BorrowedFd<'a>) -> Result<Self> {
        setns(member, CloneFlags::CLONE_NEWPID)?;
        Ok(Self { own })
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if setns(self.own, CloneFlags::CLONE_NEWPID).is_err() {
            // Further children would land in a container's namespace.
            std::process::abort();
        }
    }
}

/// Starts a process. Does not wait for its exec. The namespace visit is the calling thread's alone.
///
/// # Errors
/// As clone3(2): `EAGAIN` at the limit of processes, `EBUSY` when the cgroup has controllers enabled
/// for its children, `ENODEV` when it is gone, `ESRCH` or `ENOMEM` when the pid namespace has ended.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Child> {
    let mut fds: [RawFd; MAX_DESCRIPTORS] = [-1; MAX_DESCRIPTORS];
    if spawn.descriptors.len() > MAX_DESCRIPTORS {
        return Err(Errno::E2BIG);
    }
    for (slot, fd) in fds.iter_mut().zip(spawn.descriptors) {
        *slot = fd.as_raw_fd();
    }
    let (flags, _visit) = match spawn.pid_namespace {
        PidNamespace::New => (CLONE_NEWPID, None),
        PidNamespace::Of { member, own } => (0, Some(Visit::begin(member, own)?)),
    };
    let mut pidfd: RawFd = -1;
    let arguments = libc::clone_args {
        flags: flags | CLONE_PIDFD | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd).addr() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD.cast_unsigned().into(),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: u64::from(spawn.cgroup.as_raw_fd().cast_unsigned()),
    };
    let argv = [spawn.name.as_ptr(), ptr::null()];
    // SAFETY: without CLONE_VM this is fork(2): the child runs on a copy of this stack, and makes
    // raw system calls on copied plain values until it execs or exits.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    };
    if result == 0 {
        child(spawn.program.as_raw_fd(), &argv, &fds);
    }
    let pid = libc::pid_t::try_from(Errno::result(result)?).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: clone3 has stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: Pid::from_raw(pid), pidfd })
}

fn child(program: RawFd, argv: &[*const libc::c_char; 2], fds: &[RawFd; MAX_DESCRIPTORS]) -> ! {
    if place(fds) {
        let no_signal: u64 = 0;
        let envp: [*const libc::c_char; 1] = [ptr::null()];
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
        // SAFETY: path, argv and envp are terminated, and live until the exec or the exit.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                program,
                c"".as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
    }
    // SAFETY: _exit runs no handlers of the parent's.
    unsafe { libc::_exit(EXEC_FAILED) }
}

/// Moves the descriptors to 0, 1, 2, ...: first all out of the way, then each to its place, where it
/// survives the exec.
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
