//! Calls on a container that is there: pause and resume, new resources, what it has used, its
//! processes, and what has happened. Those that need no more than a handle on the container pass
//! the actor by.

use std::{fs, sync::Arc, time::Duration};

use husk_protocols::id::ContainerId;
use nix::unistd::Pid;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Request, Result, Supervisor, SupervisorError,
    actor::Actor,
    assets::blocking,
    desk::{Desk, Note},
    events::{Batch, Happening},
    table::{Container, Freezer, Phase, State},
};
use crate::cgroup::{Cgroup, Update, stats::Stats};

/// How long processes may take to stand or to go on. One that waits for a device stands only then.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
/// Longest that one may wait for events.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// In the guest's first pid namespace.
    pub pid: u32,
    /// As the container counts.
    pub pid_inside: u32,
    /// Of its program.
    pub name: String,
}

impl Supervisor {
    /// Stops all processes of a running container. Returns once they stand.
    ///
    /// # Errors
    /// [`SupervisorError`]; the container runs on.
    pub async fn pause(&self, id: ContainerId) -> Result<()> {
        self.ask(|reply| Request::Freeze(id, true, reply)).await
    }

    /// Lets all processes of a paused container go on.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn resume(&self, id: ContainerId) -> Result<()> {
        self.ask(|reply| Request::Freeze(id, false, reply)).await
    }

    /// Changes resources, all of them or none.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn update(&self, id: ContainerId, update: Update) -> Result<()> {
        let target = self.reach(id.clone()).await?;
        blocking(move || {
            target.alive()?;
            target.assets.cgroup.update(&update).map_err(SupervisorError::from)
        })
        .await??;
        self.ask(|reply| Request::Updated(id, reply)).await
    }

    /// What a container has used.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn stats(&self, id: ContainerId) -> Result<Stats> {
        let target = self.reach(id).await?;
        blocking(move || target.stats()).await?
    }

    /// All processes of a container.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn processes(&self, id: ContainerId) -> Result<Vec<Member>> {
        let target = self.reach(id).await?;
        blocking(move || {
            target.alive()?;
            let processes = target.assets.cgroup.processes()?;
            Ok(processes.into_iter().filter_map(member).collect())
        })
        .await?
    }

    /// Events after a sequence number, at most `limit`, if that is not 0. Waits for the first one.
    ///
    /// # Errors
    /// [`SupervisorError::Gone`].
    pub async fn events(&self, after: u64, limit: usize, wait: Duration) -> Result<Batch> {
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        loop {
            let (batch, mut news) = self.ask(|reply| Request::Events(after, limit, reply)).await?;
            if !batch.events.is_empty() || !is_news(&mut news, after, deadline).await? {
                return Ok(batch);
            }
        }
    }
}

async fn is_news(news: &mut watch::Receiver<u64>, after: u64, deadline: Instant) -> Result<bool> {
    match timeout_at(deadline, news.wait_for(|&last| last > after)).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(_)) => Err(SupervisorError::Gone),
        Err(_) => Ok(false),
    }
}

/// One that has ended meanwhile is none.
fn member(pid: Pid) -> Option<Member> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let pid = u32::try_from(pid.as_raw()).ok()?;
    // The guest's own namespace, the container's, and those the container has made.
    let inside = field("NSpid:").and_then(|pids| pids.split_whitespace().nth(1)?.parse().ok());
    Some(Member {
        pid,
        pid_inside: inside.unwrap_or(pid),
        name: field("Name:").unwrap_or_default().trim().to_owned(),
    })
}

impl Actor {
    /// Begins to pause or to resume.
    pub fn freeze(&mut self, id: ContainerId, frozen: bool, reply: super::Reply<()>) {
        let cgroup = match self.begin_to_freeze(&id, frozen) {
            Ok(cgroup) => cgroup,
            Err(error) => return super::actor::answer(reply, Err(error)),
        };
        let desk: Desk = self.desk.clone();
        tokio::spawn(async move {
            let result = freeze(cgroup, frozen).await;
            desk.tell(Note::Frozen(id, frozen, result, reply));
        });
    }

    fn begin_to_freeze(&mut self, id: &ContainerId, frozen: bool) -> Result<Arc<Cgroup>> {
        let present = self.present_mut(id)?;
        match (&present.phase, present.freezer, frozen) {
            (Phase::Running, Freezer::Thawed, true) | (Phase::Running, Freezer::Frozen, false) => {
                present.freezer = Freezer::Changing;
                Ok(present.assets.cgroup.clone())
            }
            (Phase::Running, Freezer::Changing, _) => Err(SupervisorError::Changing(id.clone())),
            _ => {
                let state = self.containers.get(id).map_or(State::Stopped, Container::state);
                Err(SupervisorError::WrongState { id: id.clone(), state })
            }
        }
    }

    /// A job has paused or resumed a container, or it is as it was.
    pub fn frozen(
        &mut self,
        id: ContainerId,
        frozen: bool,
        result: Result<()>,
        reply: super::Reply<()>,
    ) {
        if let Ok(present) = self.present_mut(&id) {
            let is_frozen = frozen == result.is_ok();
            present.freezer = if is_frozen { Freezer::Frozen } else { Freezer::Thawed };
            if result.is_ok() {
                let happening = if frozen { Happening::Paused } else { Happening::Resumed };
                self.events.push(id, None, happening);
            }
        }
        super::actor::answer(reply, result);
    }
}

async fn freeze(cgroup: Arc<Cgroup>, frozen: bool) -> Result<()> {
    let events = cgroup.watch("cgroup.events")?;
    set_frozen(&cgroup, frozen).await?;
    let settled = async {
        while events.value("frozen")? != u64::from(frozen) {
            events.changed().await?;
        }
        std::io::Result::Ok(())
    };
    let step = if frozen { "pause the container" } else { "resume the container" };
    let error = match timeout(FREEZE_DEADLINE, settled).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => std::io::ErrorKind::TimedOut.into(),
    };
    if frozen {
        // The error that came first is the one that is told.
        let _ = set_frozen(&cgroup, false).await;
    }
    Err(SupervisorError::step(step)(error))
}

async fn set_frozen(cgroup: &Arc<Cgroup>, frozen: bool) -> Result<()> {
    let cgroup = cgroup.clone();
    Ok(blocking(move || cgroup.set_frozen(frozen)).await??)
}
