//! Threads of another process that are held where they are, as a disk that hangs holds them, by
//! ptrace(2). Needs root.

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;
use std::ptr;

/// The threads of a process that have a name which begins so. They go on when this is dropped, by
/// the thread that made it.
#[derive(Debug)]
pub struct Held {
    threads: Vec<libc::pid_t>,
}

impl Held {
    /// Holds each of them in one of these system calls, or at its end: nowhere else, where it may
    /// have a lock that others wait for.
    ///
    /// # Errors
    /// Who may not.
    pub fn threads(pid: u32, name: &str, calls: &[libc::c_long]) -> io::Result<Self> {
        let mut held = Self { threads: Vec::new() };
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?;
            if !fs::read_to_string(thread.path().join("comm"))?.starts_with(name) {
                continue;
            }
            let id = thread.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
            trace(libc::PTRACE_SEIZE, id)?;
            held.threads.push(id);
            stop(id)?;
            while !calls.contains(&call_of(&thread.path())?) {
                trace(libc::PTRACE_CONT, id)?;
                stop(id)?;
            }
        }
        Ok(held)
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for id in &self.threads {
            // It may be gone with its process.
            let _ = trace(libc::PTRACE_DETACH, *id);
        }
    }
}

fn stop(thread: libc::pid_t) -> io::Result<()> {
    trace(libc::PTRACE_INTERRUPT, thread)?;
    // SAFETY: nobody wants to know the status.
    let stopped = unsafe { libc::waitpid(thread, ptr::null_mut(), libc::__WALL) };
    if stopped == thread { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of the system call that a thread which is stopped is in; -1 for none.
/// proc_pid_syscall(5).
fn call_of(thread: &Path) -> io::Result<libc::c_long> {
    let line = fs::read_to_string(thread.join("syscall"))?;
    line.split_whitespace().next().unwrap_or_default().parse().map_err(io::Error::other)
}

fn trace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests reads from or writes to an address.
    let done = unsafe { libc::ptrace(request, thread, none, none) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
