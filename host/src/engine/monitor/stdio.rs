//! Between the streams of a container's first process and whoever is attached: everything goes to
//! the log and to each client, in order; a client that reads slowly slows the container down, one
//! that is gone is forgotten.

use std::io;
use std::os::unix::net::UnixStream as StdStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::engine::output_log::{Stream, Writer};

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;
/// Pieces of input under way to a process that does not read.
const STDIN_QUEUE: usize = 4;

/// The guest's ends of a process's streams.
#[derive(Debug, Default)]
pub struct GuestStreams {
    /// To the process.
    pub stdin: Option<StdStream>,
    /// From it; both ways for a terminal.
    pub stdout: Option<StdStream>,
    /// From it.
    pub stderr: Option<StdStream>,
}

/// Where a client wants a container's output.
#[derive(Debug)]
pub struct Subscriber {
    /// Gets stdout, or the terminal's output.
    pub stdout: UnixStream,
    /// Gets stderr; none with a terminal.
    pub stderr: Option<UnixStream>,
}

/// What goes to a process's stdin.
#[derive(Debug)]
enum Input {
    Bytes(Vec<u8>),
    End,
}

/// Feeds a process's stdin.
#[derive(Debug, Clone)]
pub struct Stdin(mpsc::Sender<Input>);

impl Stdin {
    /// Passes on what a client types until it ends, and then, if asked to, the end.
    pub async fn feed(self, mut client: OwnedReadHalf, end_with_client: bool) {
        loop {
            let mut bytes = vec![0; CHUNK];
            // A client that was killed is a client that has ended.
            let count = client.read(&mut bytes).await.unwrap_or(0);
            if count == 0 {
                break;
            }
            bytes.truncate(count);
            if self.0.send(Input::Bytes(bytes)).await.is_err() {
                return;
            }
        }
        if end_with_client {
            // The process has ended meanwhile: nobody needs the end of its input.
            let _ = self.0.send(Input::End).await;
        }
    }
}

async fn pump_stdin(mut queue: mpsc::Receiver<Input>, mut guest: OwnedWriteHalf) {
    while let Some(Input::Bytes(bytes)) = queue.recv().await {
        if guest.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // Half-close is the process's end of input; a peer that is gone needs none.
    let _ = guest.shutdown().await;
}

/// Both directions of a container's stdio.
#[derive(Debug)]
pub struct Hub {
    stdin: Option<Stdin>,
    subscribe: mpsc::Sender<Subscriber>,
    done: tokio::task::JoinHandle<()>,
}

/// The part of a [`Hub`] that sessions use.
#[derive(Debug, Clone)]
pub struct HubHandle {
    /// Where input goes; none when the container has no stdin.
    pub stdin: Option<Stdin>,
    subscribe: mpsc::Sender<Subscriber>,
}

impl HubHandle {
    /// Adds a client. Its streams end when the container's do.
    pub async fn subscribe(&self, subscriber: Subscriber) {
        // With the container gone, dropping the subscriber ends its streams as well.
        let _ = self.subscribe.send(subscriber).await;
    }
}

fn to_tokio(stream: StdStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl Hub {
    /// Starts moving bytes. `first` is attached before the first one.
    ///
    /// # Errors
    /// fcntl(2).
    pub fn start(
        streams: GuestStreams,
        terminal: bool,
        log: Writer,
        first: Option<Subscriber>,
    ) -> io::Result<Self> {
        let mut input = None;
        let mut stdout = None;
        if let Some(stream) = streams.stdout {
            let (read, write) = to_tokio(stream)?.into_split();
            stdout = Some(read);
            if terminal {
                input = Some(write);
            } else {
                // Shuts nothing down: the half that reads keeps the socket whole.
                write.forget();
            }
        }
        if let Some(stream) = streams.stdin {
            let (_read, write) = to_tokio(stream)?.into_split();
            input = Some(write);
        }
        let stderr = match streams.stderr {
            None => None,
            Some(stream) => {
                let (read, write) = to_tokio(stream)?.into_split();
                write.forget();
                Some(read)
            }
        };
        let stdin = input.map(|guest| {
            let (sender, queue) = mpsc::channel(STDIN_QUEUE);
            tokio::spawn(pump_stdin(queue, guest));
            Stdin(sender)
        });
        let (subscribe, joining) = mpsc::channel(1);
        let output = Output { stdout, stderr, log, clients: first.into_iter().collect() };
        let done = tokio::spawn(output.run(joining));
        Ok(Self { stdin, subscribe, done })
    }

    /// What sessions need of this.
    #[must_use]
    pub fn handle(&self) -> HubHandle {
        HubHandle { stdin: self.stdin.clone(), subscribe: self.subscribe.clone() }
    }

    /// Waits until the last byte is logged and delivered, then lets the clients go.
    pub async fn drained(&mut self) {
        // It does not panic; were it to, there would be nothing more to deliver.
        let _ = (&mut self.done).await;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.done.abort();
    }
}

/// Owns the container's output.
struct Output {
    stdout: Option<OwnedReadHalf>,
    stderr: Option<OwnedReadHalf>,
    log: Writer,
    clients: Vec<Subscriber>,
}

enum Step {
    Joined(Option<Subscriber>),
    Wrote(Stream, io::Result<usize>),
}

impl Output {
    async fn run(mut self, mut joining: mpsc::Receiver<Subscriber>) {
        let mut out = vec![0; CHUNK];
        let mut err = vec![0; CHUNK];
        while self.stdout.is_some() || self.stderr.is_some() {
            let step = tokio::select! {
                joined = joining.recv() => Step::Joined(joined),
                count = read(&mut self.stdout, &mut out) => Step::Wrote(Stream::Stdout, count),
                count = read(&mut self.stderr, &mut err) => Step::Wrote(Stream::Stderr, count),
            };
            match step {
                Step::Joined(client) => self.clients.extend(client),
                // A broken stream has ended as well: the VM is gone.
                Step::Wrote(stream, Ok(0) | Err(_)) => *self.source(stream) = None,
                Step::Wrote(stream, Ok(count)) => {
                    let bytes = if stream == Stream::Stdout { &out } else { &err };
                    self.deliver(stream, &bytes[..count]).await;
                }
            }
        }
    }

    fn source(&mut self, stream: Stream) -> &mut Option<OwnedReadHalf> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    async fn deliver(&mut self, stream: Stream, bytes: &[u8]) {
        if let Err(error) = self.log.append(stream, bytes) {
            tracing::warn!(%error, "container output is not in the log");
        }
        let mut there = Vec::with_capacity(self.clients.len());
        for mut client in self.clients.drain(..) {
            let sink = match stream {
                Stream::Stdout => Some(&mut client.stdout),
                Stream::Stderr => client.stderr.as_mut(),
            };
            let alive = match sink {
                Some(sink) => sink.write_all(bytes).await.is_ok(),
                None => true,
            };
            if alive {
                there.push(client);
            }
        }
        self.clients = there;
    }
}

async fn read(source: &mut Option<OwnedReadHalf>, buffer: &mut [u8]) -> io::Result<usize> {
    match source {
        Some(source) => source.read(buffer).await,
        None => std::future::pending().await,
    }
}
