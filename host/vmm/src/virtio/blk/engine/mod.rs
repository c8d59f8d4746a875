//! Who does the steps of requests, on a file and without waiting for them.
//!
//! ```text
//! start(task) --> in flight --steps--> done --finished()--> answer
//!                     '-- drain(): waited for, and told to nobody
//! ```
//!
//! - [`ring`]: io_uring(7), where the kernel has it and lets us;
//! - [`workers`]: a few threads, where not.
//!
//! A task owns the memory that the kernel works on; neither engine lets go of a task before the
//! kernel has, and both wait for that in `drain` and when they are dropped.

pub mod ring;
pub mod workers;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::core::Pending;
use super::request::Answer;
use super::task::Task;

/// Tasks that an engine takes at one time; as many as the queue has descriptors.
pub const MAX_IN_FLIGHT: usize = 128;

/// A choice of engines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// io_uring if it can be had, else threads.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// Threads.
    Threads,
}

/// A task that is done.
#[derive(Debug)]
pub struct Done {
    /// How to give its chain back.
    pub pending: Pending,
    /// How it went.
    pub answer: Answer,
}

/// See the module.
pub trait Engine: Send {
    /// For people.
    fn name(&self) -> &'static str;

    /// Takes a task. At most [`MAX_IN_FLIGHT`] are started and not finished.
    fn start(&mut self, task: Task);

    /// What was started is on its way when this returns.
    fn submit(&mut self);

    /// Appends what is done since the last call. Never waits.
    fn finished(&mut self, done: &mut Vec<Done>);

    /// Waits until the kernel works on nothing of it; forgets what was started and what is done.
    fn drain(&mut self);

    /// Readable after something was done.
    fn event(&self) -> BorrowedFd<'_>;

    /// Its event was seen.
    fn acknowledge(&mut self);
}

/// Waits for the engine's event. False when there was none until then.
pub fn wait(engine: &dyn Engine, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let events = &mut [PollFd::new(engine.event(), PollFlags::POLLIN)];
    // Interrupted, it is as if there had been one: whoever looks sees nothing.
    !left.is_zero() && poll(events, timeout) != Ok(0)
}

/// What a thread of an engine does first: whoever sets up the process confines it here.
pub type OnThread = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// The engine for a file.
///
/// # Errors
/// Those of io_uring_setup(2) if nothing else will do, of eventfd(2), of new threads and of
/// `on_thread`.
pub fn open(kind: EngineKind, file: File, on_thread: &OnThread) -> io::Result<Box<dyn Engine>> {
    if kind != EngineKind::Threads {
        match ring::Ring::new(file.try_clone()?) {
            Ok(ring) => return Ok(Box::new(ring)),
            Err(error) if kind == EngineKind::IoUring => return Err(error),
            Err(error) => tracing::debug!(%error, "no io_uring; disks are served by threads"),
        }
    }
    Ok(Box::new(workers::Workers::new(file, on_thread)?))
}
