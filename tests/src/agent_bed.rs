//! The guest agent alone in a VM: no engine and no command line. Boots kernel and guest image,
//! speaks the protocol to the agent, and shows the console when the guest does not come up. One VM
//! serves all cases of a test process.

mod container;
mod copies;
mod files;
mod guest;
pub mod images;
mod life;
mod machine;
mod namespaces;
mod raw;

use std::{
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use husk_protocols::{
    agent,
    agent_ttrpc::{
        ContainersClient, FilesClient, GuestClient, ProcessesClient, SandboxClient, StdioClient,
    },
    error::{ErrorKind, from_ttrpc},
    handshake::Hello,
    port::STREAM_PORT,
};
use husk_vmm::vsock::VsockHandle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Runtime,
};
use ttrpc::{
    r#async::{Client, transport::Socket},
    context::{Context, with_duration},
};

pub use container::{Container, process};
pub use files::{FILES, with_files};
pub use images::{DISK, HOSTILE_IMAGE, IMAGE};
pub use machine::Options;
pub use namespaces::{FIRST_ID, IDS};
pub use raw::RawGuest;

/// Of a call, also of one that waits for a process's end: a translated guest on a busy machine is
/// slow.
const DEADLINE: Duration = Duration::from_secs(240);

/// A VM with an agent that has announced itself.
pub struct Bed {
    runtime: Runtime,
    vsock: VsockHandle,
    life: machine::Life,
    sandbox: SandboxClient,
    containers: ContainersClient,
    processes: ProcessesClient,
    stdio: StdioClient,
    guest: GuestClient,
    files: FilesClient,
    /// Set once the program of [`Bed::guest_hook`] is in this VM.
    program: OnceLock<()>,
    /// What the agent said of itself.
    pub hello: Hello,
}

/// What the agent refused.
#[derive(Debug)]
pub struct Refusal {
    /// On what the host acts.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

impl From<ttrpc::Error> for Refusal {
    fn from(error: ttrpc::Error) -> Self {
        let (kind, message) = from_ttrpc(&error);
        Self { kind, message }
    }
}

/// An answer of the agent.
pub type Answer<T> = Result<T, Refusal>;

/// A process that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// As a shell says it.
    pub code: u32,
    /// For want of memory.
    pub oom_killed: bool,
    /// All of it.
    pub stdout: String,
    /// All of it.
    pub stderr: String,
}

/// Streams of a process, the test's side.
#[derive(Default)]
pub struct Stdio {
    /// To the process.
    pub stdin: Option<UnixStream>,
    /// From the process; both ways with a terminal.
    pub stdout: Option<UnixStream>,
    /// From the process.
    pub stderr: Option<UnixStream>,
    wire: agent::Streams,
}

impl Stdio {
    /// What the output's stream was opened under.
    #[must_use]
    pub fn stdout_token(&self) -> u64 {
        self.wire.stdout
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A folder for the files of one VM.
fn own_folder(folder: &Path) -> std::path::PathBuf {
    folder.join(format!("agent-bed-{}-{}", std::process::id(), next()))
}

fn deadline() -> Context {
    with_duration(DEADLINE)
}

async fn read_all(stream: Option<UnixStream>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Bed {
    /// The one VM of this test process. Its files go below `folder`.
    ///
    /// # Errors
    /// When the guest does not come up; the same for every caller.
    pub fn shared(folder: &Path) -> Result<&'static Self> {
        static BED: OnceLock<Result<Bed>> = OnceLock::new();
        BED.get_or_init(|| Self::boot(folder)).as_ref().map_err(|error| anyhow!("{error:#}"))
    }

    /// A VM of one's own. Its files go below `folder`.
    ///
    /// # Errors
    /// When the guest does not come up, with the end of its console.
    pub fn boot(folder: &Path) -> Result<Self> {
        Self::boot_with(folder, &Options::default())
    }

    /// The same, of another make.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub fn boot_with(folder: &Path, options: &Options) -> Result<Self> {
        let machine = machine::start(&own_folder(folder), options)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = {
            let _inside = runtime.enter();
            Client::new(Socket::new(UnixStream::from_std(machine.connection)?))
        };
        Ok(Self {
            runtime,
            vsock: machine.vsock,
            life: machine.life,
            sandbox: SandboxClient::new(client.clone()),
            containers: ContainersClient::new(client.clone()),
            processes: ProcessesClient::new(client.clone()),
            stdio: StdioClient::new(client.clone()),
            guest: GuestClient::new(client.clone()),
            files: FilesClient::new(client),
            program: OnceLock::new(),
            hello: machine.hello,
        })
    }

    /// Runs a future of this bed's.
    ///
    /// # Panics
    /// When the VM has ended or ends meanwhile: no case waits for the answers of a dead guest.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                value = future => value,
                status = self.life.surprise() => panic!("the VM has ended with {status}: see its console"),
            }
        })
    }

    /// Kills the VM, as a crash would.
    pub fn pull_plug(&self) {
        self.life.pull_plug();
    }

    /// Opens a stream to the agent under a new token.
    ///
    /// # Errors
    /// When the VM is gone.
    pub async fn open(&self) -> Result<(u64, UnixStream)> {
        let token = next();
        Ok((token, self.open_as(token).await?))
    }

    /// Opens a stream to the agent under this token.
    ///
    /// # Errors
    /// When the VM is gone.
    pub async fn open_as(&self, token: u64) -> Result<UnixStream> {
        let stream = self.vsock.connect(STREAM_PORT).context("connect to the agent")?;
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream)?;
        stream.write_all(&token.to_le_bytes()).await?;
        Ok(stream)
    }

    /// Opens all streams that a process can have.
    ///
    /// # Errors
    /// When the VM is gone.
    pub async fn open_stdio(&self, terminal: bool) -> Result<Stdio> {
        let (token, stdout) = self.open().await?;
        let mut stdio = Stdio { stdout: Some(stdout), ..Stdio::default() };
        stdio.wire.stdout = token;
        stdio.wire.terminal = terminal;
        if !terminal {
            let (token, stdin) = self.open().await?;
            (stdio.wire.stdin, stdio.stdin) = (token, Some(stdin));
            let (token, stderr) = self.open().await?;
            (stdio.wire.stderr, stdio.stderr) = (token, Some(stderr));
        }
        Ok(stdio)
    }

    /// `Containers.Create`. Returns the pid.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn create(&self, container: &Container, stdio: &Stdio) -> Answer<u32> {
        let request = container.request(stdio.wire.clone());
        Ok(self.containers.create(deadline(), &request).await?.pid)
    }

    /// `Containers.Create` with any bytes as the spec.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn create_raw(&self, id: &str, spec: &[u8]) -> Answer<u32> {
        let mut request = Container::sh("true").request(agent::Streams::default());
        request.id = id.to_owned();
        request.spec = spec.to_owned();
        Ok(self.containers.create(deadline(), &request).await?.pid)
    }

    /// `Containers.Start`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = agent::StartRequest { id: id.to_owned(), ..Default::default() };
        self.containers.start(deadline(), &request).await?;
        Ok(())
    }

    /// `Containers.Delete`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn delete(&self, id: &str) -> Answer<()> {
        let request = agent::DeleteRequest { id: id.to_owned(), ..Default::default() };
        self.containers.delete(deadline(), &request).await?;
        Ok(())
    }

    /// `Containers.List`, the ids.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn list(&self) -> Answer<Vec<String>> {
        let list = self.containers.list(deadline(), &agent::Empty::default()).await?;
        Ok(list.containers.into_iter().map(|container| container.id).collect())
    }

    /// `Processes.Exec`. Returns the exec's id.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn exec(
        &self,
        id: &str,
        process: &serde_json::Value,
        stdio: &Stdio,
    ) -> Answer<String> {
        let exec_id = format!("exec-{}", next());
        let request = agent::ExecRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.clone(),
            process: process.to_string().into_bytes(),
            streams: Some(stdio.wire.clone()).into(),
            ..Default::default()
        };
        self.processes.exec(deadline(), &request).await?;
        Ok(exec_id)
    }

    /// `Processes.Signal`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn signal(&self, id: &str, exec: &str, signal: u32, all: bool) -> Answer<()> {
        let request = agent::SignalRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        self.processes.signal(deadline(), &request).await?;
        Ok(())
    }

    /// `Processes.Wait`: exit code, and whether for want of memory.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn wait(&self, id: &str, exec: &str) -> Answer<(u32, bool)> {
        let request = agent::WaitRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        let response = self.processes.wait(deadline(), &request).await?;
        Ok((response.exit_code, response.oom_killed))
    }

    /// `Stdio.Resize`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn resize(&self, id: &str, rows: u32, columns: u32) -> Answer<()> {
        let request = agent::ResizeRequest {
            container_id: id.to_owned(),
            rows,
            columns,
            ..Default::default()
        };
        self.stdio.resize(deadline(), &request).await?;
        Ok(())
    }

    /// `Stdio.CloseStdin`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn close_stdin(&self, id: &str) -> Answer<()> {
        let request =
            agent::CloseStdinRequest { container_id: id.to_owned(), ..Default::default() };
        self.stdio.close_stdin(deadline(), &request).await?;
        Ok(())
    }

    /// `Sandbox.Setup`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn set_up(&self, request: agent::SetupRequest) -> Answer<()> {
        self.sandbox.setup(deadline(), &request).await?;
        Ok(())
    }

    /// `Sandbox.Info`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn info(&self) -> Answer<agent::InfoResponse> {
        Ok(self.sandbox.info(deadline(), &agent::Empty::default()).await?)
    }

    /// `Sandbox.Shutdown`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn shut_down(&self) -> Answer<()> {
        self.life.expect_end();
        self.sandbox.shutdown(deadline(), &agent::Empty::default()).await?;
        Ok(())
    }

    /// Runs a container from its creation to its deletion.
    ///
    /// # Errors
    /// The agent's refusal, of creation or start; the container is gone then too.
    pub fn run(&self, container: &Container) -> Answer<Ended> {
        self.run_with(container, b"")
    }

    /// The same, with input.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(&self, container: &Container, stdin: &[u8]) -> Answer<Ended> {
        self.block_on(async {
            let stdio = self.open_stdio(container.is_terminal()).await.expect("the VM runs");
            self.create(container, &stdio).await?;
            if let Err(refusal) = self.start(&container.id).await {
                self.delete(&container.id).await?;
                return Err(refusal);
            }
            let ended = match self.finish(&container.id, "", stdio, stdin).await {
                Ok(ended) => ended,
                Err(refusal) => {
                    // What is told is why it was waited for in vain.
                    let _ = self.remove(&container.id).await;
                    return Err(refusal);
                }
            };
            self.delete(&container.id).await?;
            Ok(ended)
        })
    }

    /// Writes the input, reads all output, and waits.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn finish(&self, id: &str, exec: &str, stdio: Stdio, stdin: &[u8]) -> Answer<Ended> {
        let Stdio { stdin: to, stdout, stderr, .. } = stdio;
        let write = async {
            if let Some(mut to) = to {
                // A process that does not read its input may have ended.
                let _ = to.write_all(stdin).await;
                let _ = to.shutdown().await;
            }
        };
        let (waited, stdout, stderr, ()) =
            tokio::join!(self.wait(id, exec), read_all(stdout), read_all(stderr), write);
        let (code, oom_killed) = waited?;
        Ok(Ended {
            code,
            oom_killed,
            stdout: stdout.expect("the stream ends"),
            stderr: stderr.expect("the stream ends"),
        })
    }

    /// Runs a process in a running container.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn run_exec(&self, id: &str, process: &serde_json::Value) -> Answer<Ended> {
        let terminal = process["terminal"].as_bool().unwrap_or_default();
        let stdio = self.open_stdio(terminal).await.expect("the VM runs");
        let exec = self.exec(id, process, &stdio).await?;
        self.finish(id, &exec, stdio, b"").await
    }
}
