//! Copies bytes between a process and its streams.
//!
//! * Output is read until its end; when the process has ended, until nothing is left to read, since
//!   something in the background may hold the other end for ever.
//! * A stream that nobody reads any more does not stop the process: its output is read and dropped.
//! * A stream that is slow slows the process down, and nobody else.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::{Notify, watch},
};

use super::Channel;

/// Bytes in one go: a quarter of a pipe, and little enough to have for each of many processes.
const BUFFER: usize = 16 << 10;
/// Most that is read after the process has ended: more than a pipe holds is what something in the
/// background writes.
const MAX_DRAIN: usize = 8 << 20;

/// Tells that the process has ended.
#[derive(Debug, Clone)]
pub struct Ended(watch::Receiver<bool>);

impl Ended {
    pub fn new(watcher: watch::Receiver<bool>) -> Self {
        Self(watcher)
    }

    async fn wait(&mut self) {
        // Nobody left to tell is as good as told.
        let _ = self.0.wait_for(|ended| *ended).await;
    }
}

/// From the process to the host.
pub async fn output(from: Arc<Channel>, mut to: Option<impl AsyncWrite + Unpin>, mut ended: Ended) {
    // Most processes say nothing most of the time: there is a buffer while something is there to
    // read.
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = ended.wait() => break,
            ready = from.readable() => if ready.is_err() { break },
        }
        buffer.resize(BUFFER, 0);
        match from.read_ready(&mut buffer) {
            Ok(Some(len)) if len > 0 => forward(&mut to, &buffer, len).await,
            Ok(None) => buffer = Vec::new(),
            _ => {
                close(to).await;
                return;
            }
        }
    }
    buffer.resize(BUFFER, 0);
    let mut left = MAX_DRAIN;
    while let Ok(Some(len)) = from.read_now(&mut buffer) {
        if len == 0 || left == 0 {
            break;
        }
        left = left.saturating_sub(len);
        forward(&mut to, &buffer, len).await;
    }
    close(to).await;
}

async fn forward(to: &mut Option<impl AsyncWrite + Unpin>, buffer: &[u8], len: usize) {
    if let (Some(stream), Some(bytes)) = (to.as_mut(), buffer.get(..len))
        && stream.write_all(bytes).await.is_err()
    {
        *to = None;
    }
}

async fn close(to: Option<impl AsyncWrite + Unpin>) {
    if let Some(mut stream) = to {
        // The host may have closed its side already.
        let _ = stream.shutdown().await;
    }
}

/// From the host to the process. Dropping the channel is the end of its input.
pub async fn input(
    mut from: impl AsyncRead + Unpin,
    to: Arc<Channel>,
    close: Arc<Notify>,
    mut ended: Ended,
) {
    let copy = async {
        let mut closing = false;
        loop {
            let read = tokio::select! {
                biased;
                read = arrived(&mut from) => read,
                // After what is there now.
                () = tokio::task::yield_now(), if closing => return,
                () = close.notified(), if !closing => {
                    closing = true;
                    continue;
                }
            };
            match read {
                Ok(bytes) if !bytes.is_empty() => {
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    };
    tokio::select! {
        () = copy => {}
        () = ended.wait() => {}
    }
}

/// What has arrived, empty at the end. While nothing has, there is no buffer for it.
async fn arrived(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    poll_fn(|context| {
        let mut room = [MaybeUninit::uninit(); BUFFER];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *from).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().to_vec()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::{fcntl::OFlag, unistd::pipe2};
    use tokio::{
        io::{AsyncReadExt, duplex},
        task::JoinHandle,
    };

    use super::*;

    struct Out {
        writer: OwnedFd,
        ended: watch::Sender<bool>,
        host: tokio::io::DuplexStream,
        pump: JoinHandle<()>,
    }

    fn start(capacity: usize) -> Out {
        let (read, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (host, stream) = duplex(capacity);
        let (ended, watcher) = watch::channel(false);
        let channel = Arc::new(Channel::new(read).unwrap());
        let pump = tokio::spawn(output(channel, Some(stream), Ended::new(watcher)));
        Out { writer, ended, host, pump }
    }

    #[tokio::test]
    async fn all_output_arrives_before_the_end_although_the_pipe_stays_open() {
        let mut out = start(8);
        let bytes = vec![7; 60_000];
        nix::unistd::write(&out.writer, &bytes).unwrap();
        out.ended.send_replace(true);
        let mut received = Vec::new();
        out.host.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, bytes);
        out.pump.await.unwrap();
        drop(out.writer);
    }

    #[tokio::test]
    async fn output_after_the_reader_is_gone_is_dropped() {
        let out = start(8);
        drop(out.host);
        let writer = std::fs::File::from(out.writer);
        // Far more than the pipe holds: it would block for ever if nobody read.
        let written = tokio::task::spawn_blocking(move || {
            use std::io::Write;
            (&writer).write_all(&vec![1; 1 << 20])
        });
        written.await.unwrap().unwrap();
        out.pump.await.unwrap();
    }

    #[tokio::test]
    async fn half_close_of_the_host_ends_the_input() {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (mut host, stream) = duplex(64);
        let (_ended, watcher) = watch::channel(false);
        let channel = Arc::new(Channel::new(write).unwrap());
        let close = Arc::new(Notify::new());
        let pump = tokio::spawn(input(stream, channel, close, Ended::new(watcher)));
        host.write_all(b"hi").await.unwrap();
        drop(host);
        pump.await.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(read), &mut text).unwrap();
        assert_eq!(text, "hi");
    }

    #[tokio::test]
    async fn closing_the_input_keeps_what_has_arrived() {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (mut host, stream) = duplex(64);
        let (_ended, watcher) = watch::channel(false);
        let channel = Arc::new(Channel::new(write).unwrap());
        let close = Arc::new(Notify::new());
        host.write_all(b"hi").await.unwrap();
        close.notify_one();
        input(stream, channel, close, Ended::new(watcher)).await;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(read), &mut text).unwrap();
        assert_eq!(text, "hi");
    }
}
