//! Hands the listener of a process's seccomp filter to whoever decides about its system calls: a
//! Unix socket in the guest, and on it the "container process state" of the runtime-spec
//! (config-linux.md, Seccomp) with the descriptor.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use nix::unistd::Pid;
use serde::Serialize;
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
    time::timeout,
};

use super::{Result, SupervisorError};
use crate::{
    container::plan::{State, StatePlan, Status},
    seccomp, sys,
};

/// How long one who does not take its descriptor may hold a process up.
const PATIENCE: Duration = Duration::from_secs(10);
/// config-linux.md, Seccomp: what the descriptor that is sent is called.
const DESCRIPTORS: [&str; 1] = ["seccompFd"];

/// Who decides about a container's system calls.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    metadata: Option<String>,
    state: StatePlan,
}

/// One process whose filter has a listener.
#[derive(Debug)]
pub struct Announcement {
    /// To whom.
    pub listener: Arc<Listener>,
    /// In the guest's first pid namespace.
    pub pid: Pid,
    /// Refers to it.
    pub pidfd: Arc<OwnedFd>,
    /// The container's.
    pub status: Status,
}

/// `ContainerProcessState` of config-linux.md.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: State<'a>,
}

impl Listener {
    /// The one that a spec names.
    #[must_use]
    pub fn new(plan: &seccomp::Listener, state: StatePlan) -> Self {
        Self { path: plan.path.clone(), metadata: plan.metadata.clone(), state }
    }
}

impl Announcement {
    fn message(&self) -> Vec<u8> {
        let Listener { metadata, state, .. } = &*self.listener;
        let pid = self.pid.as_raw().unsigned_abs();
        let message = ProcessState {
            oci_version: &state.oci_version,
            fds: DESCRIPTORS,
            pid,
            metadata: metadata.as_deref(),
            state: state.state(self.status, Some(pid)),
        };
        serde_json::to_vec(&message).expect("texts and numbers have a form in JSON")
    }

    /// Sends the process's descriptor of this number, and what it is.
    ///
    /// # Errors
    /// [`SupervisorError::Listener`] when nobody takes it.
    pub async fn hand_over(self, descriptor: RawFd) -> Result<()> {
        let failed =
            |source| SupervisorError::Listener { path: self.listener.path.clone(), source };
        let listener = sys::descriptor::of_process(self.pidfd.as_fd(), descriptor)
            .map_err(SupervisorError::step("take the seccomp listener"))?;
        let sent = timeout(PATIENCE, self.send(listener.as_fd())).await;
        sent.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(failed)
    }

    async fn send(&self, listener: BorrowedFd<'_>) -> std::io::Result<()> {
        let message = self.message();
        let mut stream = UnixStream::connect(&self.listener.path).await?;
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                Ok(sys::descriptor::send_with(stream.as_fd(), &message, Some(listener))?)
            })
            .await?;
        stream.write_all(message.get(sent..).unwrap_or_default()).await?;
        stream.shutdown().await
    }
}
