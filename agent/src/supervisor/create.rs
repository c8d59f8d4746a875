//! The job that sets a container up, and the one that starts it.

use std::{os::fd::OwnedFd, sync::Arc};

use husk_protocols::id::ContainerId;

use super::{
    CreateOrder, Result, SupervisorError,
    assets::Assets,
    desk::{Desk, Purpose, SpawnOrder, root_handle},
    grants::Grants,
    hooks::Hooks,
    isolation::Isolation,
    process::{OomRule, Process, Rest, Rule, Spawned},
    stage::Stage,
    table::{Execs, Freezer, Phase, Present},
    target::Common,
    witness::Witness,
};
use crate::{
    container::{
        link::Order,
        plan::{InitPlan, Namespaces, Status},
    },
    stdio::{self, AgentEnds},
    sys,
};

/// Sets a container up.
///
/// # Errors
/// [`SupervisorError`]; all of it is gone again.
pub async fn create(order: CreateOrder, desk: Desk) -> Result<Box<Present>> {
    let CreateOrder { id, mut plan, inherited, listener, cgroup, mut rootfs, streams, hooks } =
        order;
    let streams = desk.streams.claim(streams).await?;
    let (child, ours) = stdio::connect(streams, plan.process.terminal.is_some())
        .map_err(SupervisorError::step("make standard streams"))?;
    let isolation = Isolation::open(&mut plan, &desk).await?;
    if let Some(rootfs) = &mut rootfs {
        rootfs.ids = isolation.layer_ids();
    }
    let cgroup_path = cgroup.path.clone();
    let hooks = match hooks {
        Some(hooks) => Some(Hooks::make(id.clone(), hooks).await?),
        None => None,
    };
    let (stage, link) = Stage::new()?;
    let assets = Assets::make(id.clone(), cgroup, rootfs).await?;
    let common = Arc::new(Common { inherited, listener: listener.map(Arc::new) });
    // The kernel ends all of a pid namespace with its first process.
    let rest = if isolation.has_new_pid() { Rest::Ends } else { Rest::Lives };
    let job = Job { id, desk, namespaces: plan.namespaces, rest, common, hooks };
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
    common: Arc<Common>,
    hooks: Option<Arc<Hooks>>,
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
        stage.announce_to(self.common.announcement(&spawned, Status::Created));
        let order = Order::Init { plan: Box::new(plan), cgroup };
        let set_up = async {
            let master = self.prepare(&mut stage, &order, &spawned).await?;
            if let Some(grants) = grants {
                grants.give(spawned.pid, spawned.pidfd.clone()).await?;
            }
            assets.hold_namespaces(spawned.pid);
            assets.cgroup.filter_devices()?;
            ours.start(master).map_err(SupervisorError::step("poll the terminal"))
        };
        let pumps = set_up.await;
        match pumps {
            Ok((pumps, controls)) => {
                let cgroup = assets.cgroup.clone();
                let rule = Rule { oom: OomRule::Any, rest: self.rest };
                let mut first = Process::watch(spawned, pumps, controls, cgroup, rule);
                let done = first.done.clone();
                first.witness =
                    Some(Witness::of_container(self.id, &assets.cgroup, done, self.desk));
                Ok(Box::new(Present {
                    phase: Phase::Created(stage),
                    freezer: Freezer::Thawed,
                    first,
                    assets: Arc::new(assets),
                    namespaces: self.namespaces,
                    common: self.common,
                    execs: Execs::default(),
                    hooks: self.hooks,
                }))
            }
            Err(error) => {
                kill(spawned).await;
                let _ = assets.release().await;
                if let Some(hooks) = &self.hooks {
                    hooks.poststop(&self.desk).await;
                }
                Err(error)
            }
        }
    }

    /// Waits until all is set up, with a pause for the hooks of the guest's namespaces where there
    /// are hooks at all.
    async fn prepare(
        &self,
        stage: &mut Stage,
        order: &Order,
        spawned: &Spawned,
    ) -> Result<Option<OwnedFd>> {
        let Some(hooks) = &self.hooks else { return stage.set_up(order).await };
        stage.order(order).await?;
        stage.prepared().await?;
        hooks.create_runtime(&self.desk, spawned.pid.as_raw().unsigned_abs()).await?;
        stage.go().await?;
        tokio::select! {
            master = stage.ready() => master,
            // A hook of the container's may take for ever; it ends with the stage.
            () = self.desk.closed() => Err(SupervisorError::Gone),
        }
    }
}

/// Ends a process that was being set up, and waits for its end.
pub async fn kill(spawned: Spawned) {
    use std::os::fd::AsFd;
    // One that has ended already needs no signal.
    let _ = sys::process::send_signal(spawned.pidfd.as_fd(), libc::SIGKILL);
    let _ = spawned.exit.await;
}

/// Gives the word, and waits for the exec.
///
/// # Errors
/// [`SupervisorError`]; the process ends then.
pub async fn start(mut stage: Stage) -> Result<()> {
    stage.go().await?;
    stage.executed().await
}
