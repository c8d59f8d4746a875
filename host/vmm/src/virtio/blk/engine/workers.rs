//! Tasks on a few threads, each of which does one at a time from its first step to its last.

#![allow(unsafe_code, reason = "preadv and pwritev take addresses and lengths")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::fcntl::fallocate;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::fdatasync;

use super::ring::mode;
use super::{Done, Engine, OnThread};
use crate::virtio::blk::request::Answer;
use crate::virtio::blk::segments::Segments;
use crate::virtio::blk::task::{Step, Task};

/// Threads of one disk: what a driver that waits for each request and one that does not can use,
/// and few enough to cost nothing.
const THREADS: usize = 4;
/// Of a thread; a task needs a few hundred bytes.
const STACK_LEN: usize = 128 << 10;

/// What threads and engine share.
#[derive(Debug)]
struct Shared {
    file: File,
    event: EventFd,
    state: Mutex<State>,
    /// Something waits, or the end has come.
    work: Condvar,
    /// A thread has put its task down.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Task>,
    busy: usize,
    done: Vec<Done>,
    /// Tasks at work end after their step.
    draining: bool,
    ended: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Threads that wait for work, all of which have done `on_thread`.
    ///
    /// # Errors
    /// Those of eventfd(2), of new threads and of `on_thread`.
    pub fn new(file: File, on_thread: &OnThread) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let state = Mutex::default();
        let shared =
            Arc::new(Shared { file, event, state, work: Condvar::new(), idle: Condvar::new() });
        let mut workers = Self { shared, threads: Vec::with_capacity(THREADS) };
        let (ready, answers) = mpsc::channel();
        for index in 0..THREADS {
            let shared = Arc::clone(&workers.shared);
            let (on_thread, ready) = (Arc::clone(on_thread), ready.clone());
            let builder =
                thread::Builder::new().name(format!("disk-{index}")).stack_size(STACK_LEN);
            workers.threads.push(builder.spawn(move || {
                let started = on_thread();
                let works = started.is_ok();
                let _ = ready.send(started);
                drop((on_thread, ready));
                if works {
                    shared.work();
                }
            })?);
        }
        drop(ready);
        answers.into_iter().collect::<io::Result<()>>()?;
        Ok(workers)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done by a panic: each change is one statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.ended {
                return;
            }
            let Some(task) = state.waiting.pop_front() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let done = self.run(task);
            state = self.lock();
            state.busy -= 1;
            if state.draining {
                self.idle.notify_all();
            }
            // Others that are done were told of, and nobody has come for them yet.
            if state.done.is_empty() {
                // EAGAIN: it is readable already.
                let _ = self.event.write(1);
            }
            state.done.push(done);
        }
    }

    fn run(&self, mut task: Task) -> Done {
        loop {
            let result = self.step(task.step());
            if let Some(answer) = task.advance(result) {
                return Done { pending: task.pending, answer };
            }
            if self.lock().draining {
                return Done { pending: task.pending, answer: Answer::IoError };
            }
        }
    }

    fn step(&self, step: Step<'_>) -> Result<usize, Errno> {
        let offset = |offset: u64| i64::try_from(offset).map_err(|_| Errno::EFBIG);
        match step {
            Step::Read { offset: at, data } => read(&self.file, offset(at)?, data),
            Step::Write { offset: at, data } => write(&self.file, offset(at)?, data),
            Step::Clear { how, offset: at, len } => {
                fallocate(&self.file, mode(how), offset(at)?, offset(len)?).map(|()| 0)
            }
            Step::Sync => fdatasync(&self.file).map(|()| 0),
        }
    }
}

fn read(file: &File, offset: i64, data: &Segments) -> Result<usize, Errno> {
    let pieces = data.pieces();
    let count = libc::c_int::try_from(pieces.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `pieces` holds `count` entries for the whole call, and each is memory, shared with
    // the guest, that `data` keeps mapped and that no Rust reference covers.
    let len = unsafe { libc::preadv(file.as_raw_fd(), pieces.as_ptr(), count, offset) };
    usize::try_from(Errno::result(len)?).map_err(|_| Errno::EIO)
}

fn write(file: &File, offset: i64, data: &Segments) -> Result<usize, Errno> {
    let pieces = data.pieces();
    let count = libc::c_int::try_from(pieces.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: as for reading; the kernel only reads what the entries point to.
    let len = unsafe { libc::pwritev(file.as_raw_fd(), pieces.as_ptr(), count, offset) };
    usize::try_from(Errno::result(len)?).map_err(|_| Errno::EIO)
}

impl Engine for Workers {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn start(&mut self, task: Task) {
        self.shared.lock().waiting.push_back(task);
        self.shared.work.notify_one();
    }

    fn submit(&mut self) {}

    fn finished(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.shared.lock().done);
    }

    fn drain(&mut self) {
        let mut state = self.shared.lock();
        state.waiting.clear();
        state.draining = true;
        while state.busy > 0 {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.draining = false;
        state.done.clear();
        drop(state);
        self.acknowledge();
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    fn acknowledge(&mut self) {
        // EAGAIN: nothing was there.
        let _ = self.shared.event.read();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.waiting.clear();
        state.draining = true;
        state.ended = true;
        drop(state);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of a thread was told when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
