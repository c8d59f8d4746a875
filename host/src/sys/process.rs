//! Child processes that end with their parent, hold no descriptor by accident, and can be waited
//! for by descriptor. Knows no programs.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sys::signal::Signal;

/// Starts `command` in a session of its own, so that a terminal's signals pass it by. It is killed
/// when the calling *thread* ends, prctl(2) `PR_SET_PDEATHSIG`: call from a thread that lives as
/// long as the child should. Besides the standard streams it gets the descriptors of `keep`, under
/// the numbers that they have here, and no others.
///
/// # Errors
/// Those of fork(2) and execve(2).
pub fn spawn_bound(command: &mut Command, keep: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: getpid has no preconditions.
    let parent = unsafe { libc::getpid() };
    // SAFETY: `prepare` is async-signal-safe: system calls only, no allocation, no locks.
    unsafe { command.pre_exec(move || prepare(parent, &keep)) };
    command.spawn()
}

/// Runs between fork and exec.
fn prepare(parent: libc::pid_t, keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() })?;
    // SAFETY: no pointers; the signal is a valid one.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // SAFETY: no preconditions.
    if unsafe { libc::getppid() } != parent {
        // The parent ended before the line above.
        return Err(io::ErrorKind::NotConnected.into());
    }
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: no pointers; descriptors stay open until exec, so the caller's pipe to report an
    // error of exec works.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) })?;
    for &fd in keep {
        // SAFETY: no pointers; the caller holds the descriptor.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    }
    Ok(())
}

/// A descriptor that becomes readable when the process ends, pidfd_open(2). `child` must not have
/// been waited for.
///
/// # Errors
/// Those of pidfd_open(2).
pub fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    pidfd_of(child.id())
}

/// The same of whichever process has this number now.
///
/// # Errors
/// Those of pidfd_open(2).
pub fn pidfd_of(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call returned a new descriptor that nobody else owns; it is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Signals the process of a pidfd, and none that has its number later.
///
/// # Errors
/// Those of pidfd_send_signal(2).
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let (fd, no_info) = (pidfd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: without an address for the signal's information, the kernel makes it as kill(2) does.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as libc::c_int, no_info, 0)
    };
    check(sent).map(drop)
}

fn check<T: PartialEq + From<i8>>(result: T) -> io::Result<T> {
    if result == T::from(-1) { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    /// What the descriptors of a child lead to.
    fn open_files(keep: &[BorrowedFd<'_>]) -> String {
        let mut command = Command::new("ls");
        command.args(["-l", "/proc/self/fd"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn_bound(&mut command, keep).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        text
    }

    #[test]
    fn child_holds_the_descriptors_it_was_given_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name| {
            let file = File::create(folder.path().join(name)).unwrap();
            // As a library might that knows nothing of close-on-exec.
            fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            file
        };
        let (kept, _leaked) = (open("kept"), open("leaked"));
        let files = open_files(&[kept.as_fd()]);
        assert!(files.contains("/kept"), "{files}");
        assert!(!files.contains("/leaked"), "{files}");
        assert!(!open_files(&[]).contains("/kept"));
    }

    #[test]
    fn child_is_in_a_session_of_its_own_and_dies_with_its_thread() {
        let (child, session) = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("1000");
            let child = spawn_bound(&mut command, &[]).unwrap();
            let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
            let session = nix::unistd::getsid(Some(pid)).unwrap();
            assert_eq!(session, pid);
            (child, session)
        })
        .join()
        .unwrap();
        let mut child = child;
        assert_ne!(session, nix::unistd::getsid(None).unwrap());
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
            Some(libc::SIGKILL)
        );
    }

    #[test]
    fn signal_by_pidfd_ends_the_process_and_finds_nobody_afterwards() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_of(child.id()).unwrap();
        send_signal(pidfd.as_fd(), Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        let error = send_signal(pidfd.as_fd(), Signal::SIGTERM).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn pidfd_is_readable_when_the_child_ended() {
        let mut child = spawn_bound(Command::new("sleep").arg("1000"), &[]).unwrap();
        let pidfd = pidfd(&child).unwrap();
        let readable = |timeout: PollTimeout| {
            poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout).unwrap() == 1
        };
        assert!(!readable(PollTimeout::ZERO));
        child.kill().unwrap();
        assert!(readable(PollTimeout::NONE));
        child.wait().unwrap();
    }

    #[test]
    fn program_that_is_missing_is_reported() {
        let error = spawn_bound(&mut Command::new("/no/such/program"), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
