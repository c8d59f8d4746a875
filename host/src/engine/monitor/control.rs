//! The monitor's side of control connections: one task each. A session decodes what a client
//! wants, asks the sandbox, and tells the outcome; it owns nothing that outlives it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::change;
use super::error::SandboxError;
use super::files;
use super::sandbox::Sandbox;
use super::stdio::Subscriber;
use crate::engine::control::{Attach, Decoder, Event, Exec, Request, Timings, encode};
use crate::engine::error::{EXIT_HUSK, chain};
use crate::guest::ProcessId;
use crate::sys::fd;

/// How long a container whose guest went silent may take to be over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a container's run ended.
#[derive(Debug, Clone)]
pub struct Ending {
    pub exit_code: i32,
    pub error: String,
    pub timings: Timings,
}

impl Ending {
    /// What clients are told.
    pub fn event(&self) -> Event {
        Event::Exited {
            exit_code: self.exit_code,
            error: self.error.clone(),
            timings: self.timings,
        }
    }
}

/// What sessions know of the monitor's life.
#[derive(Debug, Clone)]
pub struct View {
    /// There while the container runs.
    pub sandbox: watch::Receiver<Option<Arc<Sandbox>>>,
    /// There once everything is over.
    pub ending: watch::Receiver<Option<Ending>>,
    /// Set to take the VM down, whatever it is doing.
    pub abort: Arc<watch::Sender<bool>>,
    /// Where the owner of the status is told that processes were frozen or let go.
    pub freezer: mpsc::Sender<Frozen>,
}

/// Processes were frozen, or let go. Answered once the status says so.
#[derive(Debug)]
pub struct Frozen {
    pub paused: bool,
    pub noted: oneshot::Sender<()>,
}

impl View {
    /// The sandbox, once it runs; `None` when it is over instead.
    async fn running(&self) -> Option<Arc<Sandbox>> {
        let mut sandbox = self.sandbox.clone();
        let mut ending = self.ending.clone();
        tokio::select! {
            Ok(sandbox) = sandbox.wait_for(Option::is_some) => sandbox.clone(),
            _ = ending.wait_for(Option::is_some) => None,
        }
    }

    /// Why something was not done: a connection that broke off did so because the container is
    /// over.
    pub async fn explain(&self, error: SandboxError) -> SandboxError {
        let over = async { self.ending.clone().wait_for(Option::is_some).await.is_ok() };
        if error.may_be_the_vms() && tokio::time::timeout(LAST_WORDS, over).await == Ok(true) {
            return SandboxError::Ended;
        }
        error
    }

    /// Waits for the end, and tells how it was.
    pub async fn ended(&self) -> Ending {
        let mut ending = self.ending.clone();
        let lost = || Ending { exit_code: 255, error: String::new(), timings: Timings::default() };
        match ending.wait_for(Option::is_some).await {
            Ok(ending) => ending.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }
}

/// A control connection.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    decoder: Decoder,
}

impl Connection {
    pub fn new(socket: StdStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixStream::from_std(socket)?, decoder: Decoder::default() })
    }

    /// The next request; `None` when the client is gone. May be dropped and asked again.
    pub async fn receive(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some(request) = self.decoder.next_message()? {
                return Ok(Some(request));
            }
            let mut buffer = [0; 4096];
            self.socket.readable().await?;
            match self.socket.try_read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends an event, with descriptors. A client that is gone is told nothing.
    pub async fn send(&self, event: &Event, fds: &[OwnedFd]) {
        if let Err(error) = self.try_send(event, fds).await {
            tracing::debug!(%error, "a client left before its answer");
        }
    }

    async fn try_send(&self, event: &Event, fds: &[OwnedFd]) -> io::Result<()> {
        let frame = encode(event)?;
        let mut rest = frame.as_slice();
        let mut fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        while !rest.is_empty() {
            let write = || fd::send(self.socket.as_fd(), rest, &fds);
            let sent = self.socket.async_io(Interest::WRITABLE, write).await?;
            rest = &rest[sent..];
            fds.clear();
        }
        Ok(())
    }
}

/// The socket that later clients find. Removed when dropped.
#[derive(Debug)]
pub struct Socket {
    pub listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds `path`, in place of what a dead monitor left there: the caller holds the container's
    /// lock.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { listener: UnixListener::bind(path)?, path: path.to_owned() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whoever removed it before us did our work.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves one client to its end.
pub async fn session(mut connection: Connection, view: View) {
    let request = match connection.receive().await {
        Ok(Some(request)) => request,
        Ok(None) => return,
        Err(error) => return fail(&connection, &error).await,
    };
    match request {
        Request::Wait => connection.send(&view.ended().await.event(), &[]).await,
        Request::Stop { timeout_s } => stop(&connection, &view, timeout_s).await,
        Request::Signal(signal) => signal_first(&connection, &view, signal).await,
        Request::Attach(attach) => {
            if let Some(sandbox) = view.running().await {
                join(&mut connection, &view, &sandbox, attach).await;
            }
            connection.send(&view.ended().await.event(), &[]).await;
        }
        Request::Exec(exec) => run_exec(connection, &view, *exec).await,
        Request::Pause => change::freeze(&connection, &view, true).await,
        Request::Resume => change::freeze(&connection, &view, false).await,
        Request::Update(resources) => change::update(&connection, &view, &resources).await,
        Request::Usage => change::usage(&connection, &view).await,
        Request::Processes => change::processes(&connection, &view).await,
        Request::FileStatus { path } => files::status(&connection, &view, &path).await,
        Request::CopyOut { .. } | Request::CopyIn { .. } => {
            files::copy(&connection, &view, &request).await;
        }
        Request::Start { .. } | Request::Resize { .. } => {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not the first request");
            fail(&connection, &error).await;
        }
    }
}

pub async fn fail(connection: &Connection, error: &(dyn std::error::Error + Send + Sync)) {
    let message = chain(error);
    connection.send(&Event::Failed { exit_code: EXIT_HUSK, message }, &[]).await;
}

async fn stop(connection: &Connection, view: &View, timeout_s: Option<u64>) {
    let stopping = async {
        // Booting: there is no process yet that could be asked.
        let sandbox = view.sandbox.borrow().clone();
        if let Some(sandbox) = sandbox {
            change::thaw_for_signal(view, &sandbox).await;
            sandbox.stop(timeout_s.map(Duration::from_secs)).await;
        }
    };
    tokio::select! {
        _ = view.ended() => {}
        () = stopping => {
            view.abort.send_replace(true);
            view.ended().await;
        }
    }
    connection.send(&Event::Done, &[]).await;
}

async fn signal_first(connection: &Connection, view: &View, signal: i32) {
    let sandbox = view.sandbox.borrow().clone();
    match sandbox {
        None if signal == nix::libc::SIGKILL => {
            view.abort.send_replace(true);
            view.ended().await;
        }
        None => {
            let error = io::Error::new(io::ErrorKind::NotConnected, "the container is not running");
            return fail(connection, &error).await;
        }
        Some(sandbox) => {
            if let Err(error) = sandbox.signal(&sandbox.first_process(), signal).await {
                return fail(connection, &error).await;
            }
            change::thaw_for_signal(view, &sandbox).await;
        }
    }
    connection.send(&Event::Done, &[]).await;
}

/// Pairs of connected streams: ours, and the client's.
struct Pair {
    ours: UnixStream,
    theirs: OwnedFd,
}

fn pair() -> io::Result<Pair> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok(Pair { ours: UnixStream::from_std(ours)?, theirs: theirs.into() })
}

/// A client's streams, not yet connected to the container's.
pub struct Prepared {
    /// The announcement and the client's ends.
    event: Event,
    fds: Vec<OwnedFd>,
    /// Where output goes; a stdin of its own, or the terminal's other way.
    pub subscriber: Option<Subscriber>,
    stdin: Option<UnixStream>,
}

/// Makes the streams that `attach` asks for.
pub fn prepare(attach: Attach, terminal: bool, has_stdin: bool) -> io::Result<Prepared> {
    let mut fds = Vec::new();
    let mut make = |wanted: bool| -> io::Result<Option<UnixStream>> {
        if !wanted {
            return Ok(None);
        }
        let Pair { ours, theirs } = pair()?;
        fds.push(theirs);
        Ok(Some(ours))
    };
    let stdin = make(attach.stdin && has_stdin)?;
    let stdout = make(attach.output)?;
    let stderr = make(attach.output && !terminal)?;
    let event = Event::Streams {
        stdin: stdin.is_some(),
        stdout: stdout.is_some(),
        stderr: stderr.is_some(),
    };
    let subscriber = stdout.map(|stdout| Subscriber { stdout, stderr });
    Ok(Prepared { event, fds, subscriber, stdin })
}

impl Prepared {
    /// Hands the client its ends.
    pub async fn announce(&mut self, connection: &Connection) {
        connection.send(&self.event, &std::mem::take(&mut self.fds)).await;
    }

    /// Connects stdin.
    pub fn feed(&mut self, sandbox: &Sandbox) {
        if let (Some(client), Some(stdin)) = (self.stdin.take(), sandbox.hub.stdin.clone()) {
            let (read, write) = client.into_split();
            write.forget();
            // A terminal has no end of input: whoever detached from it may come back.
            let process = &sandbox.config.process;
            tokio::spawn(stdin.feed(read, process.stdin_once && !process.terminal));
        }
    }
}

/// Attaches a client to the running container and serves it until either is gone.
async fn join(connection: &mut Connection, view: &View, sandbox: &Sandbox, attach: Attach) {
    let process = &sandbox.config.process;
    let mut prepared = match prepare(attach, process.terminal, process.stdin_open) {
        Ok(prepared) => prepared,
        Err(error) => return fail(connection, &error).await,
    };
    prepared.announce(connection).await;
    if let Some(subscriber) = prepared.subscriber.take() {
        sandbox.hub.subscribe(subscriber).await;
    }
    prepared.feed(sandbox);
    let first = sandbox.first_process();
    if let Some((rows, columns)) = attach.window {
        resize(sandbox, &first, rows, columns).await;
    }
    connection.send(&Event::Started, &[]).await;
    serve_attached(connection, view, sandbox, &first).await;
}

async fn resize(sandbox: &Sandbox, process: &ProcessId, rows: u16, columns: u16) {
    if let Err(error) = sandbox.agent.resize(process, rows, columns).await {
        tracing::debug!(%error, "resize");
    }
}

/// Signals and window sizes from an attached client, until the container ends or the client goes.
pub async fn serve_attached(
    connection: &mut Connection,
    view: &View,
    sandbox: &Sandbox,
    process: &ProcessId,
) {
    loop {
        let request = tokio::select! {
            _ = view.ended() => return,
            request = connection.receive() => request,
        };
        match request {
            Ok(Some(Request::Signal(signal))) => {
                // A signal that comes too late is no error: the process has ended.
                if let Err(error) = sandbox.signal(process, signal).await {
                    tracing::debug!(error = %chain(&error), "forward a signal");
                }
            }
            Ok(Some(Request::Resize { rows, columns })) => {
                resize(sandbox, process, rows, columns).await;
            }
            Ok(Some(_)) => tracing::debug!("a request that an attached client does not make"),
            Ok(None) | Err(_) => return,
        }
    }
}

/// A further process, from its start to its exit. Its streams go straight to the client: no byte
/// passes through here.
async fn run_exec(mut connection: Connection, view: &View, exec: Exec) {
    let Some(sandbox) = view.running().await else {
        let error = io::Error::new(io::ErrorKind::NotConnected, "the container is not running");
        return fail(&connection, &error).await;
    };
    let (process, streams) = match sandbox.exec(&exec).await {
        Ok(started) => started,
        Err(error) => {
            let error = view.explain(error).await;
            let event = Event::Failed { exit_code: error.exit_code(), message: chain(&error) };
            return connection.send(&event, &[]).await;
        }
    };
    if exec.attach.is_some() {
        let event = Event::Streams {
            stdin: streams.stdin.is_some(),
            stdout: streams.stdout.is_some(),
            stderr: streams.stderr.is_some(),
        };
        let ends = [streams.stdin, streams.stdout, streams.stderr];
        let fds: Vec<OwnedFd> = ends.into_iter().flatten().map(OwnedFd::from).collect();
        connection.send(&event, &fds).await;
    }
    connection.send(&Event::Started, &[]).await;
    let waiting = sandbox.agent.wait(&process);
    let exit = tokio::select! {
        exit = waiting => exit.map_err(SandboxError::agent("wait for the process")),
        () = serve_attached(&mut connection, view, &sandbox, &process) => return,
    };
    let event = match exit {
        Ok(exit) => Event::Exited {
            exit_code: exit.code,
            error: String::new(),
            timings: Timings::default(),
        },
        Err(error) => {
            let error = view.explain(error).await;
            Event::Failed { exit_code: error.exit_code(), message: chain(&error) }
        }
    };
    connection.send(&event, &[]).await;
}
