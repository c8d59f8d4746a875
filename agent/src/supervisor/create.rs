//! The job that sets a container up, and the one that starts it.

use std::{os::fd::OwnedFd, sync::Arc};

use husk_protocols::id::ContainerId;
use nix::unistd::Pid;

use super::{
    CreateOrder, Result, SupervisorError,
    assets::Assets,
    desk::{Desk, Purpose, SpawnOrder, root_handle},
    grants::Grants,
    isolation::Isolation,
    process::{OomRule, Process, Rest, Rule, Spawned},
    stage::Stage,
    table::{Execs, Phase, Present},
};
use crate::{
    container::{
        link::Order,
        plan::{InitPlan, Namespaces},
    },
    stdio::{self, AgentEnds},
    sys,
};

/// Sets a container up.
///
/// # Errors
/// [`SupervisorError`]; all of it is gone again.
pub async fn create(order: CreateOrder, desk: Desk) -> Result<Box<Present>> {
    let CreateOrder { id, mut plan, cgroup, mut rootfs, streams } = order;
    let streams = desk.streams.claim(streams).await?;
    let (child, ours) = stdio::connect(streams, plan.process.terminal.is_some())
        .map_err(SupervisorError::step("make standard streams"))?;
    let isolation = Isolation::open(&mut plan, &desk).await?;
    if let Some(rootfs) = &mut rootfs {
        rootfs.ids = isolation.layer_ids();
    }
    let cgroup_path = cgroup.path.clone();
    let assets = Assets::make(id.clone(), cgroup, rootfs).await?;
    let (stage, link) = Stage::new()?;
    // The kernel ends all of a pid namespace with its first process.
    let rest = if isolation.has_new_pid() { Rest::Ends } else { Rest::Lives };
    let job = Job { id, desk, namespaces: plan.namespaces, rest };
    match job.start_stage(&assets, child, link, isolation).await {
        Ok(spawned) => job.set_up(stage, spawned, plan, cgroup_path, ours, assets).await,
        Err(error) => {
            // The error that came first is the one that is told.
            let _ = assets.release().await;
            Err(error)
        }
    }
}

struct Job {
    id: ContainerId,
    desk: Desk,
    namespaces: Namespaces,
    rest: Rest,
}

impl Job {
    async fn start_stage(
        &self,
        assets: &Assets,
        stdio: stdio::ChildEnds,
        link: OwnedFd,
        isolation: Isolation,
    ) -> Result<Spawned> {
        let rootfs = assets.rootfs.as_ref().map(root_handle).transpose()?;
        let order = SpawnOrder {
            owner: (self.id.clone(), None),
            cgroup: assets.cgroup.clone(),
            stdio,
            link,
            purpose: Purpose::Init { rootfs, isolation: Box::new(isolation) },
        };
        self.desk.spawn(order).await
    }

    async fn set_up(
        self,
        mut stage: Stage,
        spawned: Spawned,
        mut plan: InitPlan,
        cgroup: String,
        ours: AgentEnds,
        mut assets: Assets,
    ) -> Result<Box<Present>> {
        let grants = self.namespaces.user.then(|| {
            let own = plan.writes_its_cgroup().then(|| assets.cgroup.clone());
            Grants::take(&mut plan.process).with_cgroup(own)
        });
        let order = Order::Init { plan: Box::new(plan), cgroup };
        let set_up = async {
            let master = stage.set_up(&order).await?;
            if let Some(grants) = grants {
                grants.give(spawned.pid, spawned.pidfd.clone()).await?;
            }
            assets.hold_namespaces(spawned.pid);
            ours.start(master).map_err(SupervisorError::step("poll the terminal"))
        };
        let pumps = set_up.await;
        match pumps {
            Ok((pumps, controls)) => {
                let cgroup = assets.cgroup.clone();
                let rule = Rule { oom: OomRule::Any, rest: self.rest };
                let first = Process::watch(spawned, pumps, controls, cgroup, rule);
                Ok(Box::new(Present {
                    phase: Phase::Created(stage),
                    first,
                    assets: Arc::new(assets),
                    namespaces: self.namespaces,
                    execs: Execs::default(),
                }))
            }
            Err(error) => {
                kill(spawned).await;
                let _ = assets.release().await;
                Err(error)
            }
        }
    }
}

/// Ends a process that was being set up, and waits for its end.
pub async fn kill(spawned: Spawned) -> Pid {
    use std::os::fd::AsFd;
    // One that has ended already needs no signal.
    let _ = sys::process::send_signal(spawned.pidfd.as_fd(), libc::SIGKILL);
    let _ = spawned.exit.await;
    spawned.pid
}

/// Gives the word, and waits for the exec.
///
/// # Errors
/// [`SupervisorError`]; the process ends then.
pub async fn start(mut stage: Stage) -> Result<()> {
    stage.go().await?;
    stage.executed().await
}
