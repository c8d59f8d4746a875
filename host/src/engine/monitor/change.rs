//! Sessions that change a running container or ask what it uses: decode, ask, answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::control::{Connection, Frozen, View, fail};
use super::error::SandboxError;
use super::sandbox::Sandbox;
use crate::engine::control::Event;
use crate::engine::error::Error;
use crate::engine::record::Resources;
use crate::engine::spec;

/// The sandbox of a container that runs; others are told that it does not.
pub async fn running(connection: &Connection, view: &View) -> Option<Arc<Sandbox>> {
    let sandbox = view.sandbox.borrow().clone();
    if sandbox.is_none() {
        let error = io::Error::new(io::ErrorKind::NotConnected, "the container is not running");
        fail(connection, &error).await;
    }
    sandbox
}

/// What was asked for, or why not.
pub async fn answer(connection: &Connection, view: &View, outcome: Result<Event, SandboxError>) {
    match outcome {
        Ok(event) => connection.send(&event, &[]).await,
        Err(error) => fail(connection, &view.explain(error).await).await,
    }
}

/// Freezes every process or lets them go; the status says so before the client hears of it.
pub async fn freeze(connection: &Connection, view: &View, pause: bool) {
    let Some(sandbox) = running(connection, view).await else { return };
    let outcome = set_paused(view, &sandbox, pause).await;
    answer(connection, view, outcome.map(|()| Event::Done)).await;
}

async fn set_paused(view: &View, sandbox: &Sandbox, pause: bool) -> Result<(), SandboxError> {
    let _alone = sandbox.freezing.acquire().await.expect("nobody closes the semaphore");
    let id = &sandbox.config.id;
    if pause {
        sandbox.agent.pause(id).await.map_err(SandboxError::agent("pause the container"))?;
    } else {
        sandbox.agent.resume(id).await.map_err(SandboxError::agent("unpause the container"))?;
    }
    sandbox.paused.store(pause, Ordering::Relaxed);
    let (noted, wait) = oneshot::channel();
    if view.freezer.send(Frozen { paused: pause, noted }).await.is_ok() {
        // The owner of the status is gone when the container is: then there is none to be right.
        let _ = wait.await;
    }
    Ok(())
}

/// A frozen process would never see the signal that it was sent.
pub async fn thaw_for_signal(view: &View, sandbox: &Sandbox) {
    if sandbox.paused.load(Ordering::Relaxed)
        && let Err(error) = set_paused(view, sandbox, false).await
    {
        tracing::warn!(%error, "let the processes go");
    }
}

/// Other limits, at once.
pub async fn update(connection: &Connection, view: &View, resources: &Resources) {
    let Some(sandbox) = running(connection, view).await else { return };
    if let Err(error) = check_machine(&sandbox.config.resources, resources) {
        return fail(connection, &error).await;
    }
    let limits = spec::limits(resources).to_string().into_bytes();
    let outcome = sandbox.agent.update(&sandbox.config.id, limits).await;
    let outcome = outcome.map_err(SandboxError::agent("update the container"));
    answer(connection, view, outcome.map(|()| Event::Done)).await;
}

/// What has been used.
pub async fn usage(connection: &Connection, view: &View) {
    let Some(sandbox) = running(connection, view).await else { return };
    let usage = sandbox.agent.usage(&sandbox.config.id).await;
    let usage = usage.map_err(SandboxError::agent("measure the container"));
    answer(connection, view, usage.map(Event::Usage)).await;
}

/// Which processes there are.
pub async fn processes(connection: &Connection, view: &View) {
    let Some(sandbox) = running(connection, view).await else { return };
    let processes = sandbox.agent.processes(&sandbox.config.id).await;
    let processes = processes.map_err(SandboxError::agent("list the processes"));
    answer(connection, view, processes.map(Event::Processes)).await;
}

/// A machine that runs keeps the memory and the CPUs that it was started with.
fn check_machine(then: &Resources, now: &Resources) -> Result<(), Error> {
    let what = if now.workload_bytes() > then.workload_bytes() {
        "memory"
    } else if now.useful_cpus() > then.useful_cpus() {
        "CPUs"
    } else {
        return Ok(());
    };
    Err(Error::Invalid(format!(
        "the container's virtual machine cannot grow while it runs: more {what} need a stopped \
         container (husk stop, update, start)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_that_runs_does_not_grow() {
        let of = |memory_bytes, milli_cpus| Resources {
            memory_bytes,
            milli_cpus,
            ..Resources::default()
        };
        assert!(check_machine(&of(100, 1000), &of(50, 500)).is_ok());
        assert!(check_machine(&of(0, 0), &of(1 << 30, 1000)).is_ok());
        for (then, now) in [
            (of(100, 0), of(101, 0)),
            (of(0, 0), of((1 << 30) + 1, 0)),
            (of(100, 0), of(0, 0)),
            (of(0, 0), of(0, 1001)),
        ] {
            assert!(check_machine(&then, &now).is_err(), "{now:?}");
        }
    }
}
