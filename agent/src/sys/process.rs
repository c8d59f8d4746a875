//! The calling process and others: signals through pidfds, ends, keyrings, exec.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_ulong},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::{errno::Errno, unistd::Pid};

use super::Result;

/// linux/keyctl.h.
const KEYCTL_JOIN_SESSION_KEYRING: c_ulong = 1;

/// Sends a signal to the very process the pidfd was made for.
///
/// # Errors
/// `ESRCH` when it has ended, `EINVAL` for a number that is no signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo asks for the default one.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// How a process ended, as a shell says it: its status, or 128 and the signal's number.
pub type ExitCode = u32;

/// Takes the status of a child that has ended, whichever that is; nothing while all of them run.
///
/// # Errors
/// `ECHILD` without any.
pub fn reap() -> Result<Option<(Pid, ExitCode)>> {
    wait(-1, libc::WNOHANG)
}

/// Waits for the end of a child.
///
/// # Errors
/// `ECHILD` when there is no such child.
pub fn wait_for(child: Pid) -> Result<ExitCode> {
    wait(child.as_raw(), 0)?.map(|(_, code)| code).ok_or(Errno::ECHILD)
}

/// waitpid(2). By its number: real-time signals have no names that nix knows, and what it cannot
/// name it has taken from the kernel all the same.
fn wait(child: libc::pid_t, flags: libc::c_int) -> Result<Option<(Pid, ExitCode)>> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel stores one int.
        match Errno::result(unsafe { libc::waitpid(child, &raw mut status, flags) }) {
            Ok(0) => return Ok(None),
            Ok(pid) => return Ok(Some((Pid::from_raw(pid), exit_code(status)))),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn exit_code(status: libc::c_int) -> ExitCode {
    let code = match libc::WIFSIGNALED(status) {
        true => 128 + libc::WTERMSIG(status),
        false => libc::WEXITSTATUS(status),
    };
    code.unsigned_abs()
}

/// Leaves the session keyring that was inherited for a new, empty one.
///
/// # Errors
/// `ENOSYS` in a kernel without keys.
pub fn new_session_keyring() -> Result<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>())
    };
    Errno::result(result).map(drop)
}

/// Gives SIGPIPE its default action back, which Rust's start-up has taken from it and which the
/// next program would inherit.
///
/// # Errors
/// As sigaction(2).
pub fn restore_sigpipe() -> Result<()> {
    // SAFETY: SIG_DFL installs no code.
    let previous = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if previous == libc::SIG_ERR { Err(Errno::last()) } else { Ok(()) }
}

/// An exec that is ready: nothing but the one system call is left, so that it can be made under a
/// filter that allows no other.
pub struct Exec {
    path: CString,
    /// What the pointers lead to.
    _texts: [Vec<CString>; 2],
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

impl Exec {
    /// Becomes this program, with these arguments and this environment.
    #[must_use]
    pub fn new(path: CString, args: Vec<CString>, env: Vec<CString>) -> Self {
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&args), pointers(&env));
        Self { path, _texts: [args, env], argv, envp }
    }

    /// Makes the call.
    ///
    /// # Errors
    /// As execve(2); on success there is no return.
    #[must_use]
    pub fn run(&self) -> Errno {
        // SAFETY: both lists end with a null pointer, and lead to texts with a zero at the end that
        // are held, and not changed, for as long as the lists are.
        unsafe { libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        Errno::last()
    }
}

/// Sets a limit of the calling process by its number.
///
/// # Errors
/// As setrlimit(2).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    // 0 is the caller.
    set_limit_of(Pid::from_raw(0), resource, soft, hard)
}

/// Sets a limit of a process by its number.
///
/// # Errors
/// As prlimit(2).
pub fn set_limit_of(pid: Pid, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure is initialised; no old value is asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid.as_raw(),
            resource,
            &raw const limit,
            ptr::null_mut::<u8>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Sets the NIS domain name of the caller's uts namespace.
///
/// # Errors
/// As setdomainname(2).
pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: pointer and length are those of one string.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}
