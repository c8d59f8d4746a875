//! Owns all that runs in the guest. One task, the [`actor`], has the whole state; everybody else
//! sends it messages through a [`Supervisor`] handle. What takes time is a job: a task of its own
//! that works on what it was given and tells the actor how it went, so that no container waits for
//! another.
//!
//! ```text
//!             create            start            exit
//!  (nothing) ------> Creating -> Created ------> Running ------> Stopped
//!                       |failed     |exit               |  ^        |delete
//!                       v           v             pause v  | resume v
//!                   (nothing)    Stopped            Paused      (nothing)
//! ```

mod actor;
mod assets;
mod create;
mod delete;
mod desk;
mod error;
pub mod events;
mod exec;
mod files;
mod grants;
mod hooks;
mod isolation;
pub mod life;
mod listener;
mod metrics;
mod order;
mod process;
mod reaper;
mod stage;
mod table;
mod target;
mod witness;

use husk_protocols::id::{ContainerId, ExecId};
use tokio::sync::{mpsc, oneshot, watch};

pub use error::SupervisorError;
pub use files::{Copied, Owner};
pub use hooks::BUNDLES;
pub use order::{CreateOrder, ExecOrder, Rootfs};
pub use process::Outcome;
pub use reaper::Reaper;
pub use table::State;

use crate::{stdio::Streams, sys::terminal::WindowSize};
use process::Done;
use target::Target;

/// Requests on their way to the actor.
const MAILBOX: usize = 64;

type Result<T> = std::result::Result<T, SupervisorError>;
type Reply<T> = oneshot::Sender<Result<T>>;

/// Names a process: a container's first one, or an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessKey {
    /// Its container.
    pub container: ContainerId,
    /// `None` for the first process.
    pub exec: Option<ExecId>,
}

/// A container as `List` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its id.
    pub id: ContainerId,
    /// Where it is in its life.
    pub state: State,
    /// Of the first process; 0 while it is being created.
    pub pid: u32,
}

/// What is to receive a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipients {
    /// The process that was named.
    One,
    /// Every process of its container.
    All,
}

enum Request {
    Create(Box<CreateOrder>, Reply<u32>),
    Start(ContainerId, Reply<()>),
    Exec(Box<ExecOrder>, Reply<u32>),
    Signal(ProcessKey, i32, Recipients, Reply<()>),
    Wait(ProcessKey, Reply<Done>),
    Resize(ProcessKey, WindowSize, Reply<()>),
    CloseStdin(ProcessKey, Reply<()>),
    Reach(ContainerId, Reply<Target>),
    Freeze(ContainerId, bool, Reply<()>),
    Updated(ContainerId, Reply<()>),
    Events(u64, usize, Reply<(events::Batch, watch::Receiver<u64>)>),
    Delete(ContainerId, Reply<()>),
    List(Reply<Vec<Status>>),
    Shutdown(Reply<()>),
}

/// Sends requests to the actor.
#[derive(Debug, Clone)]
pub struct Supervisor(mpsc::Sender<Request>);

impl Supervisor {
    /// Starts the actor on the current runtime.
    ///
    /// # Errors
    /// When the agent's own program or pid namespace cannot be opened.
    pub fn start(reaper: Reaper, streams: Streams) -> Result<Self> {
        let (mailbox, inbox) = mpsc::channel(MAILBOX);
        let actor = actor::Actor::new(streams)?;
        tokio::spawn(actor.run(inbox, reaper));
        Ok(Self(mailbox))
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        metrics::count_request();
        let (reply, answer) = oneshot::channel();
        // A request that nobody takes drops its reply, which is the answer then.
        let _ = self.0.send(request(reply)).await;
        answer.await.unwrap_or(Err(SupervisorError::Gone))
    }

    /// Sets a container up. Returns the pid of its first process, which waits to be started.
    ///
    /// # Errors
    /// [`SupervisorError`]; nothing of the container is left.
    pub async fn create(&self, order: CreateOrder) -> Result<u32> {
        self.ask(|reply| Request::Create(Box::new(order), reply)).await
    }

    /// Lets the first process run. Returns once it executes the user's program.
    ///
    /// # Errors
    /// [`SupervisorError`]; the container is stopped when its program cannot be executed.
    pub async fn run(&self, id: ContainerId) -> Result<()> {
        self.ask(|reply| Request::Start(id, reply)).await
    }

    /// Starts a further process. Returns its pid once it executes the user's program.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn exec(&self, order: ExecOrder) -> Result<u32> {
        self.ask(|reply| Request::Exec(Box::new(order), reply)).await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn signal(&self, to: ProcessKey, signal: i32, all: Recipients) -> Result<()> {
        self.ask(|reply| Request::Signal(to, signal, all, reply)).await
    }

    /// Waits until a process has ended and its output is delivered.
    ///
    /// # Errors
    /// [`SupervisorError`], also when the container is deleted meanwhile.
    pub async fn wait(&self, process: ProcessKey) -> Result<Outcome> {
        let mut done = self.ask(|reply| Request::Wait(process.clone(), reply)).await?;
        match done.wait_for(Option::is_some).await.map(|outcome| *outcome) {
            Ok(Some(outcome)) => Ok(outcome),
            _ => Err(SupervisorError::no_process(&process)),
        }
    }

    /// Sets the window of a process's terminal.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn resize(&self, process: ProcessKey, size: WindowSize) -> Result<()> {
        self.ask(|reply| Request::Resize(process, size, reply)).await
    }

    /// Ends a process's input.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn close_stdin(&self, process: ProcessKey) -> Result<()> {
        self.ask(|reply| Request::CloseStdin(process, reply)).await
    }

    /// A container in whichever state, for a job that works on it without the actor.
    async fn reach(&self, id: ContainerId) -> Result<Target> {
        self.ask(|reply| Request::Reach(id, reply)).await
    }

    /// Removes all of a container that does not run.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn delete(&self, id: ContainerId) -> Result<()> {
        self.ask(|reply| Request::Delete(id, reply)).await
    }

    /// All containers, in order of id.
    ///
    /// # Errors
    /// [`SupervisorError::Gone`].
    pub async fn list(&self) -> Result<Vec<Status>> {
        self.ask(Request::List).await
    }

    /// Kills and removes all containers, and takes no new ones.
    ///
    /// # Errors
    /// The first failure; all are tried.
    pub async fn shut_down(&self) -> Result<()> {
        self.ask(Request::Shutdown).await
    }
}
