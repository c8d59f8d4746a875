//! What a job can ask of the actor, and tell it.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use husk_protocols::id::{ContainerId, ExecId};
use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Reply, Result, SupervisorError,
    events::Happening,
    hooks::HookOrder,
    isolation::Isolation,
    process::{Process, Spawned},
    table::Present,
    target::Target,
};
use crate::{
    cgroup::Cgroup,
    container::plan::Kind,
    stdio::{ChildEnds, Streams},
    storage::Rootfs,
    sys::spawn::UserNamespace,
};

/// What the second stage is started with beside its streams.
#[derive(Debug)]
pub enum Purpose {
    /// A new container.
    Init {
        /// The mount of its root, passed on. None in a mount namespace that is joined.
        rootfs: Option<Arc<OwnedFd>>,
        /// Where it is born.
        isolation: Box<Isolation>,
    },
    /// An exec into the container of this process.
    Join {
        /// Its first process.
        first: Arc<OwnedFd>,
    },
}

/// A second stage to start. The actor does it, so that no process can end unnoticed.
#[derive(Debug)]
pub struct SpawnOrder {
    /// Its container, and its exec.
    pub owner: (ContainerId, Option<ExecId>),
    /// Where it is born.
    pub cgroup: Arc<Cgroup>,
    /// Its standard streams.
    pub stdio: ChildEnds,
    /// Its end of the link.
    pub link: OwnedFd,
    /// What for.
    pub purpose: Purpose,
}

impl SpawnOrder {
    /// All that the stage is given, in order.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = self.stdio.descriptors().to_vec();
        all.push(self.link.as_fd());
        match &self.purpose {
            Purpose::Init { rootfs, isolation } => {
                all.extend(rootfs.as_ref().map(AsFd::as_fd));
                all.extend(isolation.entered());
            }
            Purpose::Join { first } => all.push(first.as_fd()),
        }
        all
    }

    /// The namespaces of others that it is born in.
    #[must_use]
    pub fn visited(&self) -> Vec<(Kind, BorrowedFd<'_>)> {
        match &self.purpose {
            Purpose::Init { isolation, .. } => isolation.visited().collect(),
            Purpose::Join { first } => vec![(Kind::Pid, first.as_fd())],
        }
    }

    /// Whether it is process 1 of a pid namespace of its own.
    #[must_use]
    pub fn has_new_pid(&self) -> bool {
        match &self.purpose {
            Purpose::Init { isolation, .. } => isolation.has_new_pid(),
            Purpose::Join { .. } => false,
        }
    }

    /// The user namespace that it is born in. An exec enters that of its container later, so that
    /// nobody there can look into the stage.
    #[must_use]
    pub fn user(&self) -> UserNamespace<'_> {
        match &self.purpose {
            Purpose::Init { isolation, .. } => isolation.user(),
            Purpose::Join { .. } => UserNamespace::Callers,
        }
    }

    /// Why it could not be born.
    #[must_use]
    pub fn explain(&self, errno: Errno) -> SupervisorError {
        match &self.purpose {
            Purpose::Init { isolation, .. } => isolation.explain(errno).map(Into::into),
            Purpose::Join { .. } => None,
        }
        .unwrap_or_else(|| SupervisorError::step("start a process")(errno))
    }
}

/// What a job tells the actor.
pub enum Note {
    /// Start a second stage.
    Spawn(SpawnOrder, Reply<Spawned>),
    /// Start a hook.
    SpawnHook(Box<HookOrder>, Reply<Spawned>),
    /// A container is set up, or all of it is gone again.
    Created(ContainerId, Result<Box<Present>>, Reply<u32>),
    /// The user's program runs, and hooks are still to be run.
    Executes(ContainerId),
    /// The user's program runs, or cannot.
    Started(ContainerId, Result<()>, Reply<()>),
    /// A further process runs, or not.
    Executed(ContainerId, ExecId, Result<Process>, Reply<u32>),
    /// A container was paused (`true`) or resumed, or is as it was.
    Frozen(ContainerId, bool, Result<()>, Reply<()>),
    /// For those who ask for events.
    Happened(ContainerId, Option<ExecId>, Happening),
    /// All of a container is gone, or could not be removed.
    Deleted(ContainerId, Result<()>, Reply<()>),
    /// Remove a container, alive or not.
    Destroy(ContainerId, Reply<()>),
    /// A container, for a job that needs another than its own.
    Reach(ContainerId, Reply<Target>),
}

/// A job's way to the actor. The actor's own sends never wait: notes are bounded by its jobs.
#[derive(Debug, Clone)]
pub struct Desk {
    notes: mpsc::UnboundedSender<Note>,
    /// Where streams are claimed.
    pub streams: Streams,
    closing: watch::Receiver<bool>,
}

impl Desk {
    /// The desk of an actor.
    #[must_use]
    pub fn new(
        notes: mpsc::UnboundedSender<Note>,
        streams: Streams,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self { notes, streams, closing }
    }

    /// Whether the sandbox is being shut down.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Waits until the sandbox is being shut down.
    pub async fn closed(&self) {
        // An actor that is gone has closed too.
        let _ = self.closing.clone().wait_for(|closing| *closing).await;
    }

    /// Tells the actor. One that is gone has taken all jobs' subjects with it.
    pub fn tell(&self, note: Note) {
        let _ = self.notes.send(note);
    }

    /// Starts a second stage.
    ///
    /// # Errors
    /// [`SupervisorError::Step`].
    pub async fn spawn(&self, order: SpawnOrder) -> Result<Spawned> {
        let (reply, answer) = oneshot::channel();
        self.tell(Note::Spawn(order, reply));
        answer.await.unwrap_or(Err(SupervisorError::Gone))
    }

    /// Starts a hook.
    ///
    /// # Errors
    /// [`SupervisorError::Step`].
    pub async fn spawn_hook(&self, order: HookOrder) -> Result<Spawned> {
        let (reply, answer) = oneshot::channel();
        self.tell(Note::SpawnHook(Box::new(order), reply));
        answer.await.unwrap_or(Err(SupervisorError::Gone))
    }

    /// A container in whichever state.
    ///
    /// # Errors
    /// [`SupervisorError`] when there is none.
    pub async fn reach(&self, id: ContainerId) -> Result<Target> {
        let (reply, answer) = oneshot::channel();
        self.tell(Note::Reach(id, reply));
        answer.await.unwrap_or(Err(SupervisorError::Gone))
    }

    /// Removes a container, alive or not.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn destroy(&self, id: ContainerId) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.tell(Note::Destroy(id, reply));
        answer.await.unwrap_or(Err(SupervisorError::Gone))
    }
}

/// A copy of a root's descriptor, for the stage.
///
/// # Errors
/// As dup(2).
pub fn root_handle(rootfs: &Rootfs) -> Result<Arc<OwnedFd>> {
    rootfs
        .mount_descriptor()
        .try_clone_to_owned()
        .map(Arc::new)
        .map_err(SupervisorError::step("duplicate the root"))
}
