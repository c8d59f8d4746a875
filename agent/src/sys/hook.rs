//! Starts a hook's program: clone(2) or clone3(2), and an exec by path. Between the two the child
//! makes raw system calls only, since the caller may have threads.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char},
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
};

use nix::errno::Errno;

use super::{
    Result,
    clone::{
        CLONE_PIDFD, Child, EXEC_FAILED, MAX_DESCRIPTORS, TOLD, clone, exit, place, unblock_signals,
    },
};

/// What files of a hook lack that names no mode.
const UMASK: libc::mode_t = 0o022;

/// What to start.
#[derive(Debug)]
pub struct Hook<'a> {
    /// Its path in the caller's root.
    pub program: &'a CStr,
    /// The name it is called by, and its arguments.
    pub args: &'a [CString],
    /// All of its environment.
    pub env: &'a [CString],
    /// Its input.
    pub stdin: BorrowedFd<'a>,
    /// Its output and its errors.
    pub output: BorrowedFd<'a>,
    /// A cgroup v2 folder to be born in; without one, the caller's.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Starts the program in a session of its own. Does not wait for its exec: one that cannot be
/// executed says why and ends with status 127.
///
/// # Errors
/// As clone3(2).
pub fn start(hook: &Hook<'_>) -> Result<Child> {
    let (argv, envp) = (pointers(hook.args), pointers(hook.env));
    let mut fds: [RawFd; MAX_DESCRIPTORS] = [-1; MAX_DESCRIPTORS];
    let output = hook.output.as_raw_fd();
    for (slot, fd) in fds.iter_mut().zip([hook.stdin.as_raw_fd(), output, output]) {
        *slot = fd;
    }
    let born = match hook.cgroup {
        Some(cgroup) => clone(0, TOLD, Some(cgroup))?,
        None => clone_here()?,
    };
    match born {
        Some(child) => Ok(child),
        None => child(hook.program, &argv, &envp, &fds),
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// The older call: filters that are in force in a container often have clone3 as unknown, since
/// they cannot look into its arguments. `None` in the child.
fn clone_here() -> Result<Option<Child>> {
    let mut pidfd: RawFd = -1;
    let flags = CLONE_PIDFD | u64::from(TOLD.cast_unsigned());
    // SAFETY: without CLONE_VM this is fork(2), as in `clone`; with CLONE_PIDFD the third argument
    // is where the descriptor is stored.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    if result == 0 { Ok(None) } else { Child::born(result, pidfd).map(Some) }
}

fn child(
    program: &CStr,
    argv: &[*const c_char],
    envp: &[*const c_char],
    fds: &[RawFd; MAX_DESCRIPTORS],
) -> ! {
    // SAFETY: it takes nothing, and changes the child alone.
    unsafe { libc::setsid() };
    // SAFETY: a plain number.
    unsafe { libc::umask(UMASK) };
    // SAFETY: SIG_DFL installs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if place(fds) {
        unblock_signals();
        let first = libc::STDERR_FILENO + 1;
        // SAFETY: it only marks descriptors, those after the three that were placed.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                first,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        // SAFETY: path, argv and envp are terminated, and live until the exec or the exit.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let why = refusal(Errno::last());
        // SAFETY: pointer and length are those of one text.
        unsafe { libc::write(libc::STDERR_FILENO, why.as_ptr().cast(), why.len()) };
    }
    exit(EXEC_FAILED)
}

/// The last words of a child that could not become its program.
fn refusal(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => "its interpreter is missing",
        Errno::ENOEXEC => "the kernel knows no such format",
        Errno::ETXTBSY => "somebody writes to it",
        Errno::E2BIG => "its arguments are too long",
        Errno::EACCES => "it is a folder, or lies where nothing can be executed",
        _ => "it cannot be executed",
    }
}

/// What a wait has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The process has ended.
    pub ended: bool,
    /// There is output, or nobody is left who could write any.
    pub output: bool,
}

/// Waits for a process's end or its output, at most so many milliseconds; for ever with a negative
/// number. Neither is there when the time is up.
///
/// # Errors
/// As poll(2), without `EINTR`.
pub fn wait(
    pidfd: BorrowedFd<'_>,
    output: Option<BorrowedFd<'_>>,
    timeout_ms: libc::c_int,
) -> Result<Ready> {
    // A negative descriptor is passed over.
    let number = output.map_or(-1, |fd| fd.as_raw_fd());
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut entries = [entry(pidfd.as_raw_fd()), entry(number)];
    // SAFETY: pointer and count are those of one array.
    match Errno::result(unsafe { libc::poll(entries.as_mut_ptr(), 2, timeout_ms) }) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let [process, output] = entries.map(|entry| entry.revents != 0);
    Ok(Ready { ended: process, output })
}
