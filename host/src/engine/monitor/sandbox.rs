//! A running sandbox as sessions see it: what may be asked of it at any time, by many at once.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use husk_protocols::id::ExecId;
use husk_protocols::port::STREAM_PORT;
use husk_vmm::vsock::VsockHandle;
use tokio::sync::Semaphore;

use super::error::SandboxError;
use super::stdio::{GuestStreams, HubHandle};
use crate::engine::control::Exec;
use crate::engine::record::{Config, Process};
use crate::engine::spec::{self, Privilege};
use crate::guest::{Agent, ProcessId, Streams, open_stream};

/// How long a process may take to die of SIGKILL before its VM does.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// A sandbox whose container runs.
#[derive(Debug)]
pub struct Sandbox {
    pub config: Config,
    pub agent: Agent,
    pub vsock: VsockHandle,
    pub hub: HubHandle,
    pub execs: AtomicU64,
    /// Its processes are frozen.
    pub paused: AtomicBool,
    /// One permit, for whoever freezes them or lets them go.
    pub freezing: Semaphore,
}

/// Opens the streams of a process; with a terminal, one for both ways.
pub fn open_streams(
    vsock: &VsockHandle,
    process: &Process,
    stdin: bool,
) -> Result<(Streams, GuestStreams), SandboxError> {
    let open = || -> std::io::Result<_> {
        let socket: UnixStream = vsock.connect(STREAM_PORT)?;
        Ok((Some(open_stream(&socket)?), Some(socket)))
    };
    let mut tokens = Streams { terminal: process.terminal, ..Streams::default() };
    let mut streams = GuestStreams::default();
    let mut open_all = || -> std::io::Result<()> {
        (tokens.stdout, streams.stdout) = open()?;
        if !process.terminal {
            (tokens.stderr, streams.stderr) = open()?;
            if stdin {
                (tokens.stdin, streams.stdin) = open()?;
            }
        }
        Ok(())
    };
    open_all().map_err(SandboxError::io("open the streams of the process"))?;
    Ok((tokens, streams))
}

impl Sandbox {
    /// The container's first process.
    pub fn first_process(&self) -> ProcessId {
        ProcessId::first(&self.config.id)
    }

    /// Sends a signal to a process.
    pub async fn signal(&self, process: &ProcessId, signal: i32) -> Result<(), SandboxError> {
        let number = u32::try_from(signal).unwrap_or_default();
        self.agent
            .signal(process, number, false)
            .await
            .map_err(SandboxError::agent("signal the process"))
    }

    /// The stop signal, then SIGKILL after `grace` (never, for `None`). Returns once the container
    /// should be gone, or must be taken down with its VM.
    pub async fn stop(&self, grace: Option<Duration>) {
        let first = self.first_process();
        if let Err(error) = self.signal(&first, self.config.process.stop_signal).await {
            tracing::warn!(%error, "the stop signal did not arrive");
        }
        match grace {
            None => std::future::pending().await,
            Some(grace) => tokio::time::sleep(grace).await,
        }
        if let Err(error) = self.signal(&first, nix::libc::SIGKILL).await {
            tracing::warn!(%error, "SIGKILL did not arrive");
        }
        tokio::time::sleep(KILL_GRACE).await;
    }

    /// Starts a further process. Its streams are the caller's.
    pub async fn exec(&self, exec: &Exec) -> Result<(ProcessId, GuestStreams), SandboxError> {
        let number = self.execs.fetch_add(1, Ordering::Relaxed);
        let stdin = exec.attach.is_some_and(|attach| attach.stdin);
        let window = exec.attach.and_then(|attach| attach.window);
        let privilege = if exec.privileged { Privilege::All } else { Privilege::Container };
        let process = &exec.process;
        let exec: ExecId =
            format!("exec-{number}").parse().expect("letters, a dash and digits are an id");
        let (tokens, streams) = open_streams(&self.vsock, process, stdin)?;
        let spec = spec::process_spec(process, &self.config.security, privilege, window)
            .to_string()
            .into_bytes();
        self.agent
            .exec(&self.config.id, &exec, spec, tokens)
            .await
            .map_err(SandboxError::agent("start the process"))?;
        Ok((ProcessId { container: self.config.id.clone(), exec: Some(exec) }, streams))
    }
}
