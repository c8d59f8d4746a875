//! `Sandbox`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use husk_protocols::{
    agent::{Empty, InfoResponse, SetupRequest},
    agent_ttrpc::Sandbox,
};
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;

use super::{Console, blocking, decode, encode};
use crate::{
    guest::{Setup, info, set_up},
    supervisor::{Supervisor, SupervisorError},
};

/// How long the host has to close the connection after the answer to `Shutdown`.
pub const ANSWER_GRACE: Duration = Duration::from_millis(100);

/// The service.
pub struct Service {
    pub supervisor: Supervisor,
    /// Told once everything is down.
    pub shutdown: Arc<Notify>,
    /// Whether it listens.
    pub console: Console,
}

#[async_trait]
impl Sandbox for Service {
    async fn setup(&self, _: &TtrpcContext, request: SetupRequest) -> ttrpc::Result<Empty> {
        let sysctls = decode::sysctls(&request.sysctls).map_err(SupervisorError::from);
        let setup = Setup {
            hostname: request.hostname,
            files: request.files.into_iter().map(decode::host_file).collect(),
            wall_clock: Duration::from_nanos(request.wall_clock_ns),
            sysctls: encode(sysctls)?,
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
            online_cpus: info.cpus.online,
            present_cpus: info.cpus.present,
            kernel_release: info.kernel_release,
            cgroup_controllers: info.cgroup_controllers,
            uptime_ms: u64::try_from(info.uptime.as_millis()).unwrap_or(u64::MAX),
            console: self.console == Console::On,
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
