//! Starts the second stage: clone3(2) and one exec. Between the two the child makes raw system
//! calls only, since the caller has threads.
//!
//! The child is born with a copy of the memory, slow as that is. As vfork(2) has it, the caller
//! would sleep until the exec, which a container that freezes its own cgroup could put off for
//! ever; and who may trace a child that shares the memory has the agent's.
//!
//! A child in a user namespace has to be that namespace's root before its exec, or the exec takes
//! its capabilities away. One of its own gets its maps from the caller; one that is there already
//! is entered by a child in between, whose own child it then is to be, since a pid namespace
//! belongs to the user namespace that it is made in:
//!
//! ```text
//! own:   caller --clone3--> child waits  <--maps, go-- caller       child: root, exec
//! other: caller --clone3--> between: enter, root, --clone3--> child (the caller's): exec
//!                                    tell the caller the pid, end
//! ```
#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, poll},
    sched::{CloneFlags, setns},
    unistd::{Pid, pipe2},
};

use super::{
    Result,
    clone::{
        CLONE_NEWPID, CLONE_NEWUSER, CLONE_PARENT, Child, EXEC_FAILED, MAX_DESCRIPTORS, TOLD,
        UNTOLD, clone, exit, place, unblock_signals,
    },
    namespace::pidfd_of,
    process::send_signal,
    user_namespace::{Mapping, write_maps},
};

/// How long a child in between may take, in milliseconds. It makes a few system calls; one in a
/// cgroup that stands would never make them.
const HAND_OVER_MS: u16 = 5000;

/// A namespace that the child is born in, and that the calling thread enters for as long.
#[derive(Debug, Clone, Copy)]
pub struct Visited<'a> {
    /// The namespace, or a pidfd of a member.
    pub namespace: BorrowedFd<'a>,
    /// The caller's own, to come back to.
    pub own: BorrowedFd<'a>,
    /// One flag. Not that of a user, mount or time namespace, which a thread cannot enter alone.
    pub kind: CloneFlags,
}

/// Which user namespace the child belongs to.
#[derive(Debug, Clone, Copy)]
pub enum UserNamespace<'a> {
    /// The caller's.
    Callers,
    /// One of its own, as its root.
    New {
        /// Users.
        uid: &'a [Mapping],
        /// Groups.
        gid: &'a [Mapping],
    },
    /// This one, as its root, in a new pid namespace that belongs to it.
    Of(BorrowedFd<'a>),
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
    /// Where it is born, beside the caller's own.
    pub visited: &'a [Visited<'a>],
    /// As process 1 of a pid namespace of its own.
    pub new_pid_namespace: bool,
    /// Whose root it is.
    pub user_namespace: UserNamespace<'a>,
}

/// Comes back to the caller's own namespace, whatever happens in between.
struct Visit<'a>(Visited<'a>);

impl<'a> Visit<'a> {
    fn begin(visited: Visited<'a>) -> Result<Self> {
        setns(visited.namespace, visited.kind)?;
        Ok(Self(visited))
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if setns(self.0.own, self.0.kind).is_err() {
            // Further children would land in a container's namespace.
            std::process::abort();
        }
    }
}

/// What a child does between its birth and its exec.
#[derive(Clone, Copy)]
enum Road {
    Straight,
    /// Waits for a byte, and is root then.
    Mapped {
        go: RawFd,
    },
    /// Enters, is root then, and leaves the rest to a child of its own, whose pid it tells.
    Between {
        user: RawFd,
        tell: RawFd,
    },
}

/// Starts a process. Does not wait for its exec. The visits are the calling thread's alone.
///
/// # Errors
/// As clone3(2): `EAGAIN` at the limit of processes, `EBUSY` when the cgroup has controllers
/// enabled for its children, `ENODEV` when it is gone, `ESRCH` or `ENOMEM` when the pid namespace
/// has ended, `EPERM` when a user namespace cannot be entered as its root, `ETIMEDOUT` when that
/// takes too long.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Child> {
    let mut fds: [RawFd; MAX_DESCRIPTORS] = [-1; MAX_DESCRIPTORS];
    if spawn.descriptors.len() > MAX_DESCRIPTORS {
        return Err(Errno::E2BIG);
    }
    for (slot, fd) in fds.iter_mut().zip(spawn.descriptors) {
        *slot = fd.as_raw_fd();
    }
    let pid_flag = if spawn.new_pid_namespace { CLONE_NEWPID } else { 0 };
    let born = |flags, road| {
        let visits = spawn.visited.iter().copied().map(Visit::begin).collect::<Result<Vec<_>>>()?;
        let born = clone(flags, TOLD, Some(spawn.cgroup))?;
        match born {
            Some(child) => {
                drop(visits);
                Ok(child)
            }
            None => child(spawn, &fds, road),
        }
    };
    match spawn.user_namespace {
        UserNamespace::Callers => born(pid_flag, Road::Straight),
        UserNamespace::New { uid, gid } => {
            let (wait, go) = pipe2(OFlag::O_CLOEXEC)?;
            let child = born(pid_flag | CLONE_NEWUSER, Road::Mapped { go: wait.as_raw_fd() })?;
            drop(wait);
            if let Err(errno) = admit(&child, uid, gid, go) {
                // One that waits has done nothing; who waits for all children hears of its end.
                let _ = send_signal(child.pidfd.as_fd(), libc::SIGKILL);
                return Err(errno);
            }
            Ok(child)
        }
        UserNamespace::Of(user) => {
            let (hear, tell) = pipe2(OFlag::O_CLOEXEC)?;
            let road = Road::Between { user: user.as_raw_fd(), tell: tell.as_raw_fd() };
            let between = born(0, road)?;
            drop(tell);
            let pid = heard(hear).inspect_err(|_| {
                // Who waits for all children hears of its end.
                let _ = send_signal(between.pidfd.as_fd(), libc::SIGKILL);
            })?;
            Ok(Child { pid, pidfd: pidfd_of(pid)? })
        }
    }
}

/// The pid that a child in between tells.
fn heard(pipe: OwnedFd) -> Result<Pid> {
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, HAND_OVER_MS)? == 0 {
        return Err(Errno::ETIMEDOUT);
    }
    let mut pid = [0; size_of::<libc::pid_t>()];
    File::from(pipe).read_exact(&mut pid).map_err(|_| Errno::EPERM)?;
    Ok(Pid::from_raw(libc::pid_t::from_ne_bytes(pid)))
}

/// Makes a child in a user namespace of its own root there.
fn admit(child: &Child, uid: &[Mapping], gid: &[Mapping], go: OwnedFd) -> Result<()> {
    write_maps(&format!("/proc/{}", child.pid), uid, gid)?;
    File::from(go)
        .write_all(&[1])
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

fn child(spawn: &Spawn<'_>, fds: &[RawFd; MAX_DESCRIPTORS], road: Road) -> ! {
    if take(road) && place(fds) {
        let argv = [spawn.name.as_ptr(), ptr::null()];
        execute(spawn.program.as_raw_fd(), &argv);
    }
    exit(EXEC_FAILED)
}

/// Whether the caller is where it is to be.
fn take(road: Road) -> bool {
    match road {
        Road::Straight => true,
        Road::Mapped { go } => {
            let mut byte: u8 = 0;
            // SAFETY: the buffer is one byte.
            let read = unsafe { libc::syscall(libc::SYS_read, go, &raw mut byte, 1) };
            read == 1 && become_root()
        }
        Road::Between { user, tell } => {
            // SAFETY: plain numbers.
            let entered = unsafe { libc::syscall(libc::SYS_setns, user, libc::CLONE_NEWUSER) };
            entered == 0 && become_root() && hand_over(tell)
        }
    }
}

/// User and group 0 of the caller's user namespace. Additional groups would be nobody's there; a
/// namespace that does not let them be changed has none of them.
fn become_root() -> bool {
    // SAFETY: no groups are read.
    unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) };
    // SAFETY: plain numbers.
    let group = unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) };
    // SAFETY: plain numbers.
    let user = unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) };
    group == 0 && user == 0
}

/// Goes on as process 1 of a new pid namespace; who was there before tells the pid and ends.
fn hand_over(tell: RawFd) -> bool {
    // Its exit signal is that of who was there before.
    match clone(CLONE_PARENT | CLONE_NEWPID, UNTOLD, None) {
        Ok(None) => true,
        Ok(Some(Child { pid, .. })) => {
            let pid = pid.as_raw();
            // SAFETY: a pid spans its own size.
            let told = unsafe {
                libc::syscall(libc::SYS_write, tell, &raw const pid, size_of::<libc::pid_t>())
            };
            exit(if told > 0 { 0 } else { EXEC_FAILED })
        }
        Err(_) => false,
    }
}

fn execute(program: RawFd, argv: &[*const libc::c_char; 2]) {
    let envp: [*const libc::c_char; 1] = [ptr::null()];
    unblock_signals();
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
