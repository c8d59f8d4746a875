//! The job that starts a further process in a running container.

use super::{
    ExecOrder, Result, SupervisorError,
    create::kill,
    desk::{Desk, Purpose, SpawnOrder},
    grants::Grants,
    process::{OomRule, Process, Rest, Rule, Spawned},
    stage::Stage,
    target::Target,
};
use crate::{
    container::{link::Order, plan::Status},
    stdio::{self, AgentEnds},
};

/// Starts a process.
///
/// # Errors
/// [`SupervisorError`]; no process is left.
pub async fn exec(order: ExecOrder, target: Target, desk: Desk) -> Result<Process> {
    let ExecOrder { container, exec, mut process, streams } = order;
    target.common.inherited.complete(&mut process);
    target.common.inherited.confine(&mut process);
    let streams = desk.streams.claim(streams).await?;
    let (child, ours) = stdio::connect(streams, process.terminal.is_some())
        .map_err(SupervisorError::step("make standard streams"))?;
    let (mut stage, link) = Stage::new()?;
    let cgroup = target.assets.cgroup.clone();
    let spawned = desk
        .spawn(SpawnOrder {
            owner: (container, Some(exec)),
            cgroup: cgroup.clone(),
            stdio: child,
            link,
            purpose: Purpose::Join { first: target.first.clone() },
        })
        .await?;
    stage.announce_to(target.common.announcement(&spawned, Status::Running));
    let grants = target.namespaces.user.then(|| Grants::take(&mut process));
    let order = Order::Join { namespaces: target.namespaces, process: Box::new(process) };
    match enter(stage, &order, ours, &spawned, grants).await {
        Ok((pumps, controls)) => {
            let rule = Rule { oom: OomRule::Killed, rest: Rest::Ends };
            Ok(Process::watch(spawned, pumps, controls, cgroup, rule))
        }
        Err(error) => {
            kill(spawned).await;
            Err(error)
        }
    }
}

async fn enter(
    mut stage: Stage,
    order: &Order,
    ours: AgentEnds,
    spawned: &Spawned,
    grants: Option<Grants>,
) -> Result<(stdio::Pumps, stdio::Controls)> {
    let master = stage.set_up(order).await?;
    let pumps = ours.start(master).map_err(SupervisorError::step("poll the terminal"))?;
    if let Some(grants) = grants {
        grants.give(spawned.pid, spawned.pidfd.clone()).await?;
        stage.go().await?;
    }
    stage.executed().await?;
    Ok(pumps)
}
