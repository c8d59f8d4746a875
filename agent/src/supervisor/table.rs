//! The containers and their execs: the actor's state, as values.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use husk_protocols::id::ExecId;

use super::{
    assets::Assets,
    hooks::Hooks,
    process::Process,
    stage::Stage,
    target::{Common, Target},
};
use crate::container::plan::Namespaces;

/// Execs that have ended and whose outcome is kept for those who ask late, in each container.
const MAX_ENDED_EXECS: usize = 1024;

/// Where a container is in its life, for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being set up or waiting to be started.
    Created,
    /// The user's program runs.
    Running,
    /// All its processes stand.
    Paused,
    /// It has ended.
    Stopped,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// Where a container is in its life, with what it has there.
#[derive(Debug)]
pub enum Container {
    /// A job sets it up.
    Creating,
    /// It is there.
    Present(Box<Present>),
    /// A job takes it down.
    Deleting,
}

/// A container that was set up.
#[derive(Debug)]
pub struct Present {
    /// Its first process's life.
    pub phase: Phase,
    /// Whether its processes stand.
    pub freezer: Freezer,
    /// The first process.
    pub first: Process,
    /// What the guest has for it.
    pub assets: Arc<Assets>,
    /// Those it has to itself.
    pub namespaces: Namespaces,
    /// What its processes share.
    pub common: Arc<Common>,
    /// Further processes.
    pub execs: Execs,
    /// Only where the spec has any.
    pub hooks: Option<Arc<Hooks>>,
}

/// The life of a first process.
#[derive(Debug)]
pub enum Phase {
    /// Waits for the word.
    Created(Stage),
    /// Has it; not yet known whether its program could be executed.
    Starting,
    /// Executes it.
    Running,
    /// Has ended.
    Stopped,
}

/// Whether all processes of a container stand where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezer {
    /// They run.
    Thawed,
    /// A job stops them or lets them go on.
    Changing,
    /// They stand.
    Frozen,
}

impl Container {
    /// As the host sees it.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self::Creating => State::Created,
            Self::Deleting => State::Stopped,
            Self::Present(present) => match present.phase {
                Phase::Created(_) | Phase::Starting => State::Created,
                Phase::Running if present.freezer == Freezer::Frozen => State::Paused,
                Phase::Running => State::Running,
                Phase::Stopped => State::Stopped,
            },
        }
    }

    /// The first process's pid, 0 when there is none yet or no more.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Present(present) => present.first.number(),
            Self::Creating | Self::Deleting => 0,
        }
    }
}

impl Present {
    /// Whether the first process is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Stopped)
    }

    /// What a job needs to work on it.
    #[must_use]
    pub fn target(&self) -> Target {
        Target {
            pid: self.first.pid,
            first: self.first.pidfd.clone(),
            namespaces: self.namespaces,
            common: self.common.clone(),
            assets: self.assets.clone(),
        }
    }
}

/// Further processes of a container.
#[derive(Debug, Default)]
pub struct Execs {
    all: HashMap<ExecId, Exec>,
    /// Oldest first.
    ended: VecDeque<ExecId>,
}

/// A further process.
#[derive(Debug)]
pub enum Exec {
    /// A job sets it up.
    Starting,
    /// It runs.
    Running(Process),
    /// It has ended.
    Ended(Process),
}

impl Execs {
    /// Reserves an id. That of an exec that has ended is free again.
    #[must_use]
    pub fn reserve(&mut self, id: &ExecId) -> bool {
        match self.all.get(id) {
            Some(Exec::Starting | Exec::Running(_)) => return false,
            Some(Exec::Ended(_)) => self.ended.retain(|ended| ended != id),
            None => {}
        }
        self.all.insert(id.clone(), Exec::Starting);
        true
    }

    /// Fills or frees a reserved id.
    pub fn settle(&mut self, id: &ExecId, process: Option<Process>) {
        match process {
            Some(process) => self.all.insert(id.clone(), Exec::Running(process)),
            None => self.all.remove(id),
        };
    }

    /// Waits until all that is known of those that have ended is told.
    pub async fn witnessed(&mut self) {
        for exec in self.all.values_mut() {
            if let Exec::Running(process) | Exec::Ended(process) = exec {
                process.witnessed().await;
            }
        }
    }

    /// The exec of this id.
    #[must_use]
    pub fn get(&self, id: &ExecId) -> Option<&Exec> {
        self.all.get(id)
    }

    /// Notes an end, and forgets the oldest beyond the limit.
    pub fn end(&mut self, id: &ExecId) {
        match self.all.remove(id) {
            Some(Exec::Running(process)) => {
                self.all.insert(id.clone(), Exec::Ended(process));
            }
            Some(other) => {
                self.all.insert(id.clone(), other);
                return;
            }
            None => return,
        }
        self.ended.push_back(id.clone());
        if self.ended.len() > MAX_ENDED_EXECS
            && let Some(oldest) = self.ended.pop_front()
        {
            self.all.remove(&oldest);
        }
    }
}
