//! Children of a test that go into the jail, and system calls that no crate would make.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// What a child that panicked exits with.
pub const PANICKED: i32 = 250;
/// A child that does not end within this is stuck.
const DEADLINE_MS: u16 = 20_000;

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Killed(Signal),
    Stuck,
}

/// Runs `work` in a child of one thread, which exits with what it returns.
pub fn spawn(work: impl FnOnce() -> i32) -> Pid {
    // SAFETY: the child is a copy of this thread alone. It allocates and panics, for which the C
    // library puts its locks right at fork(3), and takes no other lock that a thread of the test
    // program could have held; it leaves by _exit(2) and never returns into the test's runner.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(work)).unwrap_or(PANICKED);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(code) }
        }
    }
}

pub fn wait(child: Pid) -> End {
    let pidfd = pidfd(child);
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let ended = poll(&mut polled, PollTimeout::from(DEADLINE_MS)).unwrap() == 1;
    if !ended {
        kill(child, Signal::SIGKILL).unwrap();
    }
    match waitpid(child, None).unwrap() {
        _ if !ended => End::Stuck,
        WaitStatus::Exited(_, code) => End::Exited(code),
        WaitStatus::Signaled(_, signal, _) => End::Killed(signal),
        other => panic!("{other:?}"),
    }
}

fn pidfd(child: Pid) -> OwnedFd {
    let pid = usize::try_from(child.as_raw()).unwrap();
    let fd = syscall(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]).unwrap();
    // SAFETY: the call returned a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) }
}

/// Any system call. Pointers among the arguments must be valid for it.
pub fn syscall(number: libc::c_long, arguments: [usize; 6]) -> Result<libc::c_long, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the tests pass numbers, null, or pointers to statics that are large enough for what
    // the call reads; none of the calls writes through them.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// A page that may be read only, which is never unmapped.
pub fn page() -> usize {
    let flags = usize::try_from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
    let fd = usize::MAX;
    let page = syscall(libc::SYS_mmap, [0, 4096, 1, flags, fd, 0]).unwrap();
    usize::try_from(page).unwrap()
}

/// Puts a request into a ring that has room.
pub fn push(ring: &mut io_uring::IoUring, entry: &io_uring::squeue::Entry) {
    // SAFETY: the test waits for the request before it lets go of the buffer and the file.
    unsafe { ring.submission().push(entry) }.unwrap();
}

/// Whether a number is that of an open descriptor.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: only looked at; a number that is not open gives EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(fd, FcntlArg::F_GETFD) != Err(Errno::EBADF)
}
