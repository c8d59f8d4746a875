//! The client of the guest agent. Generated protobuf types stop here: what goes in and comes out
//! are the types of this file. Knows no containers beyond their ids, and no hypervisor: it is
//! given connected sockets.

mod cgroup;
mod files;

pub use cgroup::{ProcessInfo, Usage};
pub use files::FileStatus;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use husk_protocols::agent as wire;
use husk_protocols::agent_ttrpc::{
    ContainersClient, FilesClient, ProcessesClient, SandboxClient, StdioClient,
};
use husk_protocols::error::{ErrorKind, from_ttrpc};
use husk_protocols::handshake::{Hello, HelloError};
use husk_protocols::id::{ContainerId, ExecId};
use husk_protocols::stream::StreamToken;
use protobuf::MessageField;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{Context, with_duration};

/// For calls that answer when a process ends. ttrpc wants a number; this one is ten years.
const NO_DEADLINE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why the agent did not do something.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// What it was.
    pub kind: ErrorKind,
    /// The agent's words.
    pub message: String,
}

impl From<ttrpc::Error> for AgentError {
    fn from(error: ttrpc::Error) -> Self {
        let (kind, message) = from_ttrpc(&error);
        Self { kind, message }
    }
}

/// Why a connection is not the agent's.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It said something else than hello, or another version.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The socket.
    #[error("talk to the agent")]
    Io(#[from] io::Error),
}

/// A process of the sandbox: a container's first, or a further one.
#[derive(Debug, Clone)]
pub struct ProcessId {
    /// Its container.
    pub container: ContainerId,
    /// `None` is the container's first process.
    pub exec: Option<ExecId>,
}

impl ProcessId {
    /// The first process of a container.
    #[must_use]
    pub fn first(container: &ContainerId) -> Self {
        Self { container: container.clone(), exec: None }
    }

    fn exec_text(&self) -> String {
        self.exec.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

/// Streams of a process, by the tokens under which they were opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Streams {
    /// Host to guest.
    pub stdin: Option<StreamToken>,
    /// Guest to host; both ways for a terminal.
    pub stdout: Option<StreamToken>,
    /// Guest to host.
    pub stderr: Option<StreamToken>,
    /// A terminal on the guest's side.
    pub terminal: bool,
}

impl Streams {
    fn to_wire(self) -> MessageField<wire::Streams> {
        let number = |token: Option<StreamToken>| token.map_or(0, StreamToken::get);
        MessageField::some(wire::Streams {
            stdin: number(self.stdin),
            stdout: number(self.stdout),
            stderr: number(self.stderr),
            terminal: self.terminal,
            ..Default::default()
        })
    }
}

/// Announces `socket`, a fresh connection to the agent's stream port, as a stdio stream.
///
/// # Errors
/// write(2), or no randomness.
pub fn open_stream(mut socket: &UnixStream) -> io::Result<StreamToken> {
    let mut random = std::fs::File::open("/dev/urandom")?;
    let token = loop {
        let mut bytes = [0; 8];
        random.read_exact(&mut bytes)?;
        if let Some(token) = StreamToken::new(u64::from_le_bytes(bytes)) {
            break token;
        }
    };
    socket.write_all(&token.to_bytes())?;
    Ok(token)
}

/// A container to be made.
#[derive(Debug)]
pub struct NewContainer {
    /// Its id.
    pub id: ContainerId,
    /// `config.json`.
    pub spec: Vec<u8>,
    /// Serial of the disk with the image.
    pub image_serial: String,
    /// Serial of the disk with the writable layer.
    pub disk_serial: String,
    /// Its stdio.
    pub streams: Streams,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// What a shell would say.
    pub code: i32,
    /// The kernel killed something in its cgroup for memory.
    pub oom_killed: bool,
}

/// What an agent says of itself and its machine. Not to be trusted further than its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its release.
    pub agent_version: String,
    /// Its resident memory.
    pub agent_resident_bytes: u64,
    /// All memory of the guest.
    pub memory_total_bytes: u64,
    /// CPUs that run.
    pub online_cpus: u32,
}

/// Reads the agent's hello from the connection that it opened. Blocks up to `deadline`.
///
/// # Errors
/// [`ConnectError`].
pub fn greet(socket: &UnixStream, deadline: Duration) -> Result<Hello, ConnectError> {
    socket.set_read_timeout(Some(deadline))?;
    let hello = Hello::read_from(socket)?;
    socket.set_read_timeout(None)?;
    Ok(hello)
}

/// A running agent.
#[derive(Clone)]
pub struct Agent {
    sandbox: SandboxClient,
    containers: ContainersClient,
    processes: ProcessesClient,
    stdio: StdioClient,
    files: FilesClient,
    deadline: Duration,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Agent")
    }
}

impl Agent {
    /// Speaks ttrpc on a connection that has been [greeted](greet). A call that only changes
    /// something in the guest may take `deadline`. Needs a tokio runtime.
    ///
    /// # Errors
    /// fcntl(2).
    pub fn new(socket: UnixStream, deadline: Duration) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        let client = Client::new(Socket::new(socket));
        Ok(Self {
            sandbox: SandboxClient::new(client.clone()),
            containers: ContainersClient::new(client.clone()),
            processes: ProcessesClient::new(client.clone()),
            stdio: StdioClient::new(client.clone()),
            files: FilesClient::new(client),
            deadline,
        })
    }

    fn call(&self) -> Context {
        with_duration(self.deadline)
    }

    /// Host name, files below /run/husk/files (name, content), clock (nanoseconds since 1970),
    /// kernel settings (name, value).
    ///
    /// # Errors
    /// [`AgentError`], as all below.
    pub async fn setup(
        &self,
        hostname: &str,
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
        wall_clock_ns: u64,
        sysctls: &BTreeMap<String, String>,
    ) -> Result<(), AgentError> {
        let sysctl = |(name, value): (&String, &String)| wire::Sysctl {
            name: name.clone(),
            value: value.clone(),
            ..Default::default()
        };
        let file =
            |(name, content)| wire::File { name, content, mode: 0o644, ..Default::default() };
        let request = wire::SetupRequest {
            hostname: hostname.to_owned(),
            files: files.into_iter().map(file).collect(),
            wall_clock_ns,
            sysctls: sysctls.iter().map(sysctl).collect(),
            ..Default::default()
        };
        self.sandbox.setup(self.call(), &request).await?;
        Ok(())
    }

    /// Sets a container up; its process waits for [`Agent::start`].
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn create(&self, new: NewContainer) -> Result<(), AgentError> {
        let rootfs = wire::Rootfs {
            image_serial: new.image_serial,
            upper: Some(wire::rootfs::Upper::DiskSerial(new.disk_serial)),
            ..Default::default()
        };
        let request = wire::CreateRequest {
            id: new.id.into(),
            spec: new.spec,
            rootfs: MessageField::some(rootfs),
            streams: new.streams.to_wire(),
            ..Default::default()
        };
        self.containers.create(self.call(), &request).await?;
        Ok(())
    }

    /// Lets a container's process go.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn start(&self, id: &ContainerId) -> Result<(), AgentError> {
        let request = wire::StartRequest { id: id.to_string(), ..Default::default() };
        self.containers.start(self.call(), &request).await?;
        Ok(())
    }

    /// Takes a container that has ended apart; its writable layer is whole on the host's disk
    /// afterwards.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn delete(&self, id: &ContainerId) -> Result<(), AgentError> {
        let request = wire::DeleteRequest { id: id.to_string(), ..Default::default() };
        self.containers.delete(self.call(), &request).await?;
        Ok(())
    }

    /// Starts a further process. `process` is `process` of the runtime-spec.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn exec(
        &self,
        container: &ContainerId,
        exec: &ExecId,
        process: Vec<u8>,
        streams: Streams,
    ) -> Result<(), AgentError> {
        let request = wire::ExecRequest {
            container_id: container.to_string(),
            exec_id: exec.to_string(),
            process,
            streams: streams.to_wire(),
            ..Default::default()
        };
        self.processes.exec(self.call(), &request).await?;
        Ok(())
    }

    /// Sends a signal to a process, or to every process of its container.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn signal(
        &self,
        process: &ProcessId,
        signal: u32,
        all: bool,
    ) -> Result<(), AgentError> {
        let request = wire::SignalRequest {
            container_id: process.container.to_string(),
            exec_id: process.exec_text(),
            signal,
            all,
            ..Default::default()
        };
        self.processes.signal(self.call(), &request).await?;
        Ok(())
    }

    /// Waits until a process has ended and its streams hold all that it wrote.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn wait(&self, process: &ProcessId) -> Result<Exit, AgentError> {
        let request = wire::WaitRequest {
            container_id: process.container.to_string(),
            exec_id: process.exec_text(),
            ..Default::default()
        };
        let exit = self.processes.wait(with_duration(NO_DEADLINE), &request).await?;
        // The guest is not trusted to keep to a byte.
        let code = i32::try_from(exit.exit_code).ok().filter(|code| (0..=255).contains(code));
        Ok(Exit { code: code.unwrap_or(255), oom_killed: exit.oom_killed })
    }

    /// Tells a process's terminal its size.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn resize(
        &self,
        process: &ProcessId,
        rows: u16,
        columns: u16,
    ) -> Result<(), AgentError> {
        let request = wire::ResizeRequest {
            container_id: process.container.to_string(),
            exec_id: process.exec_text(),
            rows: rows.into(),
            columns: columns.into(),
            ..Default::default()
        };
        self.stdio.resize(self.call(), &request).await?;
        Ok(())
    }

    /// What the agent says of itself and its machine.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn info(&self) -> Result<Info, AgentError> {
        let info = self.sandbox.info(self.call(), &wire::Empty::default()).await?;
        Ok(Info {
            agent_version: info.agent_version,
            agent_resident_bytes: info.agent_resident_bytes,
            memory_total_bytes: info.memory_total_bytes,
            online_cpus: info.online_cpus,
        })
    }

    /// Powers the VM off, after everything in it was ended and written out.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), AgentError> {
        self.sandbox.shutdown(with_duration(deadline), &wire::Empty::default()).await?;
        Ok(())
    }
}
