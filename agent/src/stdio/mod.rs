//! Standard input, output and error of processes: pipes or a terminal on one side, vsock streams on
//! the other, and the pumps between. Knows nothing of containers.

mod channel;
mod pump;
mod streams;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::pipe2,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_vsock::VsockStream;

pub use channel::Channel;
use pump::Ended;
pub use streams::{Claimed, StreamError, Streams, Tokens, is_host};

/// The process's own ends.
#[derive(Debug)]
pub struct ChildEnds([OwnedFd; 3]);

impl ChildEnds {
    /// For its descriptors 0, 1 and 2.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        self.0.each_ref().map(AsFd::as_fd)
    }
}

/// The agent's ends, before the process runs.
#[derive(Debug)]
pub struct AgentEnds {
    streams: Claimed,
    stdin: Option<Channel>,
    stdout: Option<Channel>,
    stderr: Option<Channel>,
    terminal: bool,
}

fn null() -> io::Result<OwnedFd> {
    Ok(open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// A pipe when somebody is at the other end, else /dev/null.
fn from_host(wanted: bool) -> io::Result<(OwnedFd, Option<Channel>)> {
    if !wanted {
        return Ok((null()?, None));
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((read, Some(Channel::new(write)?)))
}

fn to_host(wanted: bool) -> io::Result<(OwnedFd, Option<Channel>)> {
    if !wanted {
        return Ok((null()?, None));
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((write, Some(Channel::new(read)?)))
}

/// Makes both ends. A process with a terminal opens that itself and starts with /dev/null.
///
/// # Errors
/// As pipe2(2) and open(2).
pub fn connect(streams: Claimed, terminal: bool) -> io::Result<(ChildEnds, AgentEnds)> {
    let pipes = !terminal;
    let (child_in, stdin) = from_host(pipes && streams.stdin.is_some())?;
    let (child_out, stdout) = to_host(pipes && streams.stdout.is_some())?;
    let (child_err, stderr) = to_host(pipes && streams.stderr.is_some())?;
    let child = ChildEnds([child_in, child_out, child_err]);
    Ok((child, AgentEnds { streams, stdin, stdout, stderr, terminal }))
}

/// The pumps of one process.
#[derive(Debug)]
pub struct Pumps {
    tasks: JoinSet<()>,
    ended: watch::Sender<bool>,
}

/// What can be told to the streams of a process while it runs.
#[derive(Debug, Clone)]
pub struct Controls {
    /// The master of its terminal.
    pub terminal: Option<Arc<Channel>>,
    close_stdin: Arc<Notify>,
}

impl Controls {
    /// Ends the process's input after what has arrived so far. A terminal has no end.
    pub fn close_stdin(&self) {
        self.close_stdin.notify_one();
    }
}

impl AgentEnds {
    /// Starts the pumps. `master` is the terminal's, where there is one.
    ///
    /// # Errors
    /// When the terminal cannot be polled.
    pub fn start(self, master: Option<OwnedFd>) -> io::Result<(Pumps, Controls)> {
        let (ended, watcher) = watch::channel(false);
        let ended_of = || Ended::new(watcher.clone());
        let close_stdin = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let mut terminal = None;
        if self.terminal {
            if let Some(master) = master {
                let master = Arc::new(Channel::new(master)?);
                spawn_terminal(&mut tasks, &master, self.streams.stdout, ended_of());
                terminal = Some(master);
            }
        } else {
            let outputs = [(self.stdout, self.streams.stdout), (self.stderr, self.streams.stderr)];
            for (channel, stream) in outputs {
                if let (Some(channel), Some(stream)) = (channel, stream) {
                    tasks.spawn(pump::output(Arc::new(channel), Some(stream), ended_of()));
                }
            }
            if let (Some(channel), Some(stream)) = (self.stdin, self.streams.stdin) {
                let (close, ended) = (close_stdin.clone(), ended_of());
                tasks.spawn(pump::input(stream, Arc::new(channel), close, ended));
            }
        }
        Ok((Pumps { tasks, ended }, Controls { terminal, close_stdin }))
    }
}

fn spawn_terminal(
    tasks: &mut JoinSet<()>,
    master: &Arc<Channel>,
    stream: Option<VsockStream>,
    ended: Ended,
) {
    let (reader, writer) = match stream.map(VsockStream::into_split) {
        Some((reader, writer)) => (Some(reader), Some(writer)),
        None => (None, None),
    };
    if let Some(reader) = reader {
        let never = Arc::new(Notify::new());
        tasks.spawn(pump::input(reader, master.clone(), never, ended.clone()));
    }
    tasks.spawn(pump::output(master.clone(), writer, ended));
}

impl Pumps {
    /// The process has ended: waits until every byte it wrote is in its streams, and closes them.
    pub async fn finish(mut self) {
        self.ended.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}
