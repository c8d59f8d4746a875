//! Hands the listener of a process's seccomp filter to whoever decides about its system calls: a Unix
//! socket in the guest, and on it the "container process state" of the runtime-spec
//! (config-linux.md, Seccomp) with the descriptor.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use husk_protocols::id::ContainerId;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
    time::timeout,
};

use super::{Result, SupervisorError};
use crate::{seccomp, sys};

/// How long one who does not take its descriptor may hold a process up.
const PATIENCE: Duration = Duration::from_secs(10);
/// A container in the guest has no bundle: this is the agent's own folder.
const BUNDLE: &str = "/run/husk";

/// Who decides about a container's system calls.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    metadata: Option<String>,
    id: ContainerId,
    version: String,
    annotations: Value,
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
    /// The container's, in the words of the runtime-spec.
    pub status: &'static str,
}

impl Listener {
    /// The one that a spec names.
    #[must_use]
    pub fn new(plan: &seccomp::Listener, id: &ContainerId, spec: &Spec) -> Self {
        Self {
            path: plan.path.clone(),
            metadata: plan.metadata.clone(),
            id: id.clone(),
            version: spec.version().clone(),
            annotations: spec.annotations().as_ref().map_or_else(|| json!({}), |all| json!(all)),
        }
    }
}

impl Announcement {
    fn message(&self) -> Vec<u8> {
        let Listener { metadata, id, version, annotations, .. } = &*self.listener;
        let mut message = json!({
            "ociVersion": version,
            "fds": ["seccompFd"],
            "pid": self.pid.as_raw(),
            "state": {
                "ociVersion": version,
                "id": id.to_string(),
                "status": self.status,
                "pid": self.pid.as_raw(),
                "bundle": BUNDLE,
                "annotations": annotations,
            },
        });
        if let Some(metadata) = metadata {
            message["metadata"] = Value::from(metadata.as_str());
        }
        message.to_string().into_bytes()
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
