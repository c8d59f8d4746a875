//! `Sandbox`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use husk_protocols::{
    agent::{Empty, InfoResponse, SetupRequest},
    agent_ttrpc::Sandbox,
};
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;

use super::encode;
use crate::supervisor::{
    Supervisor, SupervisorError,
    sandbox::{File, Setup, info, set_up},
};

/// How long the host has to close the connection after the answer to `Shutdown`.
pub const ANSWER_GRACE: Duration = Duration::from_millis(100);

/// The service.
pub struct Service {
    pub supervisor: Supervisor,
    /// Told once everything is down.
    pub shutdown: Arc<Notify>,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SupervisorError> + Send + 'static,
) -> Result<T, SupervisorError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(SupervisorError::Gone))
}

#[async_trait]
impl Sandbox for Service {
    async fn setup(&self, _: &TtrpcContext, request: SetupRequest) -> ttrpc::Result<Empty> {
        let setup = Setup {
            hostname: request.hostname,
            files: request
                .files
                .into_iter()
                .map(|file| File { name: file.name, content: file.content, mode: file.mode })
                .collect(),
            wall_clock: Duration::from_nanos(request.wall_clock_ns),
        };
        encode(blocking(move || set_up(&setup)).await)?;
        Ok(Empty::default())
    }

    async fn info(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<InfoResponse> {
        let info = encode(blocking(info).await)?;
        Ok(InfoResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_resident_bytes: info.resident_bytes,
            memory_total_bytes: info.memory_bytes,
            online_cpus: info.online_cpus,
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        let result = self.supervisor.shut_down().await;
        // The guest goes down even if something would not let go.
        self.shutdown.notify_one();
        encode(result)?;
        Ok(Empty::default())
    }
}
