//! From a VM whose agent answers to a container whose process has been let go. Takes nothing down:
//! what was begun goes with the VM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::SystemTime;

use tokio::sync::Semaphore;

use super::boot::{Booted, DISK_SERIAL, IMAGE_SERIAL};
use super::control::{Connection, Prepared, prepare};
use super::error::SandboxError;
use super::sandbox::{Sandbox, open_streams};
use super::stdio::{GuestStreams, Hub, Subscriber};
use crate::engine::control::Attach;
use crate::engine::error::Error;
use crate::engine::output_log;
use crate::engine::record::Config;
use crate::engine::spec;
use crate::engine::store::Container;
use crate::guest::{Agent, AgentError, NewContainer};

/// Sets the container up and lets its process go; the client, if it wants to, is attached before
/// the first byte is written.
pub async fn set_up(
    container: &Container,
    booted: &Booted,
    attach: Option<Attach>,
    client: &Connection,
) -> Result<(Arc<Sandbox>, Hub), SandboxError> {
    let Booted { vm, agent, announced, .. } = booted;
    let config = &container.config;
    // The guest takes the streams in while it is being set up.
    let (tokens, streams) = open_streams(vm.vsock(), &config.process, config.process.stdin_open)?;
    set_sandbox_up(agent, config).await?;
    tracing::debug!(since_announced = ?announced.elapsed(), "sandbox set up");
    let window = attach.and_then(|attach| attach.window);
    let new = NewContainer {
        id: config.id.clone(),
        spec: spec::container_spec(config, window)?.to_string().into_bytes(),
        image_serial: IMAGE_SERIAL.to_owned(),
        disk_serial: DISK_SERIAL.to_owned(),
        streams: tokens,
    };
    let refused = |mut error: AgentError| {
        error.message = spec::with_flag(error.message);
        SandboxError::agent("create the container")(error)
    };
    agent.create(new).await.map_err(refused)?;
    tracing::debug!(since_announced = ?announced.elapsed(), "container created");
    let mut prepared = attach.map(|attach| prepare_client(config, attach)).transpose()?;
    let first = prepared.as_mut().and_then(|prepared| prepared.subscriber.take());
    let hub = start_hub(container, streams, first)?;
    agent.start(&config.id).await.map_err(SandboxError::agent("start the container"))?;
    tracing::debug!(since_announced = ?announced.elapsed(), "container started");
    let sandbox = Arc::new(Sandbox {
        config: config.clone(),
        agent: agent.clone(),
        vsock: vm.vsock().clone(),
        hub: hub.handle(),
        execs: AtomicU64::new(1),
        paused: AtomicBool::new(false),
        freezing: Semaphore::new(1),
    });
    if let Some(mut prepared) = prepared {
        prepared.announce(client).await;
        prepared.feed(&sandbox);
    }
    Ok((sandbox, hub))
}

async fn set_sandbox_up(agent: &Agent, config: &Config) -> Result<(), SandboxError> {
    let files = spec::sandbox_files(config)
        .into_iter()
        .map(|file| (file.name.to_owned(), file.content.into_bytes()));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall_clock_ns = u64::try_from(now.as_nanos()).unwrap_or_default();
    agent
        .setup(&config.hostname, files, wall_clock_ns, &config.surroundings.guest_sysctls)
        .await
        .map_err(SandboxError::agent("set the sandbox up"))
}

fn prepare_client(config: &Config, attach: Attach) -> Result<Prepared, SandboxError> {
    prepare(attach, config.process.terminal, config.process.stdin_open)
        .map_err(SandboxError::io("make the client's streams"))
}

fn start_hub(
    container: &Container,
    streams: GuestStreams,
    first: Option<Subscriber>,
) -> Result<Hub, SandboxError> {
    let log = container.dir.output_log();
    let log = output_log::Writer::open(&log).map_err(Error::file("open", log))?;
    Hub::start(streams, container.config.process.terminal, log, first)
        .map_err(SandboxError::io("connect the streams"))
}
