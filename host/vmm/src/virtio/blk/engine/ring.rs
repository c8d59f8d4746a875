//! Tasks on io_uring(7). The ring is locked before its first use: it does four operations on one
//! file, and whoever takes over this process can make it do nothing else, though no seccomp filter
//! sees what a ring is asked for.
//!
//! Each task has one operation under way and no more, so the completion queue cannot overflow.

#![allow(unsafe_code, reason = "io_uring takes addresses and lengths")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, register};
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Done, Engine, MAX_IN_FLIGHT};
use crate::virtio::blk::request::Answer;
use crate::virtio::blk::task::{Clear, Step, Task};

/// The disk, in the ring's table of files.
const DISK: Fixed = Fixed(0);
/// Operations that the ring does.
const OPERATIONS: [u8; 4] =
    [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];

/// See the module.
pub struct Ring {
    ring: IoUring,
    event: EventFd,
    /// What the kernel works on, by its place: the completion tells it.
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    done: Vec<Done>,
}

impl Ring {
    /// A ring for one file; with `Err`, the kernel has none for us.
    ///
    /// # Errors
    /// Those of io_uring_setup(2) and io_uring_register(2); `Unsupported` if it is too old.
    pub fn new(file: File) -> io::Result<Self> {
        let entries = u32::try_from(MAX_IN_FLIGHT).unwrap_or(u32::MAX);
        let ring: IoUring = IoUring::builder().setup_r_disabled().build(entries)?;
        let submitter = ring.submitter();
        let mut probe = register::Probe::new();
        submitter.register_probe(&mut probe)?;
        if !OPERATIONS.iter().all(|&operation| probe.is_supported(operation)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        submitter.register_eventfd(event.as_raw_fd())?;
        submitter.register_files(&[file.as_raw_fd()])?;
        let mut restrictions: Vec<_> =
            OPERATIONS.into_iter().map(register::Restriction::sqe_op).collect();
        let fixed = Flags::FIXED_FILE.bits();
        restrictions.push(register::Restriction::sqe_flags_allowed(fixed));
        restrictions.push(register::Restriction::sqe_flags_required(fixed));
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        // The ring holds the file from here on.
        drop(file);
        let tasks = std::iter::repeat_with(|| None).take(MAX_IN_FLIGHT).collect();
        let free = (0..MAX_IN_FLIGHT).rev().collect();
        Ok(Self { ring, event, tasks, free, done: Vec::new() })
    }

    fn in_flight(&self) -> usize {
        self.tasks.len() - self.free.len()
    }

    /// Hands the next step of a task to the ring. It is in the kernel's hands from the next
    /// `submit` to its completion.
    fn push(&mut self, place: usize) {
        let Some(task) = self.tasks.get(place).and_then(Option::as_ref) else { return };
        let entry = entry(task.step()).user_data(place as u64);
        // SAFETY: the entry points to the vector of a task's segments and through it to the memory
        // that these keep. The task stays in `tasks` until its completion was seen: `reap` alone
        // takes it out, and dropping a ring whose kernel does not give tasks back leaks them.
        // Nobody changes the task meanwhile: `advance` is called by `reap`.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            // As many entries as tasks, each of which has one: the ring is at odds with itself.
            self.finish(place, Answer::IoError);
        }
    }

    fn finish(&mut self, place: usize, answer: Answer) {
        if let Some(task) = self.tasks.get_mut(place).and_then(Option::take) {
            self.free.push(place);
            self.done.push(Done { pending: task.pending, answer });
        }
    }

    /// Takes in what completed. With `go_on`, what has more steps gets the next one; without, it
    /// ends here.
    fn reap(&mut self, go_on: bool) {
        let completions: Vec<(u64, i32)> = self
            .ring
            .completion()
            .map(|completion| (completion.user_data(), completion.result()))
            .collect();
        for (place, result) in completions {
            let Ok(place) = usize::try_from(place) else { continue };
            let Some(task) = self.tasks.get_mut(place).and_then(Option::as_mut) else { continue };
            let result = usize::try_from(result).map_err(|_| Errno::from_raw(-result));
            match task.advance(result) {
                Some(answer) => self.finish(place, answer),
                None if go_on => self.push(place),
                None => self.finish(place, Answer::IoError),
            }
        }
    }
}

#[cfg(test)]
impl Ring {
    /// Asks for an operation that no disk needs; what it gets.
    pub fn try_forbidden(&mut self) -> Option<i32> {
        let path = c"/dev/null";
        let entry = opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
        // SAFETY: the path is a constant.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.ok()?;
        self.ring.submit_and_wait(1).ok()?;
        self.ring.completion().next().map(|completion| completion.result())
    }
}

impl Engine for Ring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn start(&mut self, task: Task) {
        match self.free.pop() {
            Some(place) => {
                self.tasks[place] = Some(task);
                self.push(place);
            }
            None => self.done.push(Done { pending: task.pending, answer: Answer::IoError }),
        }
    }

    fn submit(&mut self) {
        if self.ring.submission().is_empty() {
            return;
        }
        if let Err(error) = self.ring.submit() {
            // Short of memory, or interrupted: the entries stay, and are tried again from the
            // event.
            tracing::debug!(%error, "submit to io_uring");
            // EAGAIN: it is as readable as can be.
            let _ = self.event.write(1);
        }
    }

    fn finished(&mut self, done: &mut Vec<Done>) {
        self.reap(true);
        self.submit();
        done.append(&mut self.done);
    }

    fn drain(&mut self) {
        let mut failures = 0;
        while self.in_flight() > 0 && failures < 1000 {
            // Also submits what waits: the kernel knows of no entry that is not submitted, and it
            // would be the next driver's.
            match self.ring.submit_and_wait(1) {
                Ok(_) => failures = 0,
                // A virtual CPU's thread may be kicked while it waits here.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, "wait for io_uring");
                    failures += 1;
                }
            }
            self.reap(false);
        }
        if self.in_flight() > 0 {
            // A kernel that gives nothing back may still write: memory it writes to stays for ever.
            tracing::error!(tasks = self.in_flight(), "io_uring gives requests of a disk not back");
            std::mem::forget(std::mem::take(&mut self.tasks));
            self.free.clear();
        }
        self.done.clear();
        self.acknowledge();
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn acknowledge(&mut self) {
        // EAGAIN: nothing was there.
        let _ = self.event.read();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.drain();
    }
}

/// The step as the ring has it.
fn entry(step: Step<'_>) -> Entry {
    let count = |pieces: &[libc::iovec]| u32::try_from(pieces.len()).unwrap_or(0);
    match step {
        Step::Read { offset, data } => {
            let pieces = data.pieces();
            opcode::Readv::new(DISK, pieces.as_ptr(), count(pieces)).offset(offset).build()
        }
        Step::Write { offset, data } => {
            let pieces = data.pieces();
            opcode::Writev::new(DISK, pieces.as_ptr(), count(pieces)).offset(offset).build()
        }
        Step::Clear { how, offset, len } => {
            opcode::Fallocate::new(DISK, len).offset(offset).mode(mode(how).bits()).build()
        }
        Step::Sync => opcode::Fsync::new(DISK).flags(FsyncFlags::DATASYNC).build(),
    }
}

/// fallocate(2)'s name for it.
pub(super) fn mode(how: Clear) -> FallocateFlags {
    let how = match how {
        Clear::Punch => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
        Clear::Zero => FallocateFlags::FALLOC_FL_ZERO_RANGE,
    };
    how | FallocateFlags::FALLOC_FL_KEEP_SIZE
}
