//! The jobs that take containers down.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use husk_protocols::id::ContainerId;
use tokio::time::timeout;

use super::{Result, SupervisorError, assets::blocking, desk::Desk, table::Present};

/// How long the last output of a process may take that has ended, before its streams are closed.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// How often it is looked whether a job of the container still uses its assets, and how long.
const SHARED_INTERVAL: Duration = Duration::from_millis(2);
const SHARED_TRIES: u32 = 2500;

/// Takes a container down, its processes too where there are any.
///
/// # Errors
/// [`SupervisorError`].
pub async fn delete(mut present: Box<Present>, desk: &Desk) -> Result<()> {
    let Some(hooks) = present.hooks.take() else { return take_down(present).await };
    hooks.cancel();
    let result = take_down(present).await;
    hooks.poststop(desk).await;
    // Those after the start were told to end. The folder that all of them know goes with the last
    // one, and the next container of this id makes its own.
    for _ in 0..SHARED_TRIES {
        if Arc::strong_count(&hooks) == 1 {
            break;
        }
        tokio::time::sleep(SHARED_INTERVAL).await;
    }
    result
}

async fn take_down(present: Box<Present>) -> Result<()> {
    let Present { phase, mut first, assets, mut execs, .. } = *present;
    assets.retire();
    let cgroup = assets.cgroup.clone();
    blocking(move || cgroup.kill()).await??;
    // The link of one that waits to be started.
    drop(phase);
    // Who waits for it gets its outcome first.
    let told = async {
        first.witnessed().await;
        execs.witnessed().await;
    };
    let _ = timeout(OUTPUT_GRACE, told).await;
    drop((first, execs));
    release(assets).await
}

/// An exec that was under way when the container ended still holds the assets for a moment.
async fn release(mut assets: Arc<super::assets::Assets>) -> Result<()> {
    for _ in 0..SHARED_TRIES {
        match Arc::try_unwrap(assets) {
            Ok(assets) => return assets.release().await,
            Err(shared) => assets = shared,
        }
        tokio::time::sleep(SHARED_INTERVAL).await;
    }
    let source = std::io::ErrorKind::ResourceBusy.into();
    Err(SupervisorError::Step { step: "wait for what is under way", source })
}

/// Takes all of them down at once. Their disks are written back by it.
///
/// # Errors
/// The first failure; all are tried.
pub async fn delete_all(containers: Vec<ContainerId>, desk: Desk) -> Result<()> {
    let results = join_all(containers.into_iter().map(|id| {
        let desk = desk.clone();
        async move { destroy(id, &desk).await }
    }))
    .await;
    results.into_iter().collect()
}

/// One that is being set up is waited for: it is on its way out when a hook holds it, for hooks end
/// when the sandbox does.
async fn destroy(id: ContainerId, desk: &Desk) -> Result<()> {
    for _ in 0..SHARED_TRIES {
        match desk.destroy(id.clone()).await {
            Err(SupervisorError::WrongState { .. }) => {}
            Err(SupervisorError::NoContainer(_)) => return Ok(()),
            result => return result,
        }
        tokio::time::sleep(SHARED_INTERVAL).await;
    }
    desk.destroy(id).await
}
