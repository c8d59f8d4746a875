//! Streams that the host has opened, between their arrival and the request that names them:
//! `husk_protocols::stream`. A small actor of its own, since streams and requests arrive in any
//! order.

use std::{collections::HashMap, time::Duration};

use husk_protocols::{
    port::HOST_CID,
    stream::{CLAIM_DEADLINE, StreamToken},
};
use tokio::{
    io::AsyncReadExt,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_vsock::{VsockAddr, VsockListener, VsockStream};

/// Streams that wait to be named; beyond it new ones are closed.
const MAX_WAITING: usize = 1024;
/// Messages on their way to the actor.
const MAILBOX: usize = 64;
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a stream cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The host did not open it in time.
    #[error("stream {0:#x} was not opened")]
    NotOpened(u64),
    /// A request named one stream twice.
    #[error("stream {0:#x} is named twice")]
    NamedTwice(u64),
}

enum Message {
    Opened(StreamToken, VsockStream),
    Claim(StreamToken, oneshot::Sender<VsockStream>),
    /// The deadline of the message with this number has passed.
    Expired(StreamToken, u64),
}

enum Waiting {
    /// A stream for its request.
    Stream(u64, VsockStream),
    /// A request for its stream.
    Request(u64, oneshot::Sender<VsockStream>),
}

/// Which streams a request names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tokens {
    /// Host to guest.
    pub stdin: Option<StreamToken>,
    /// Guest to host, and both ways with a terminal.
    pub stdout: Option<StreamToken>,
    /// Guest to host.
    pub stderr: Option<StreamToken>,
}

/// The streams of a process.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Host to guest.
    pub stdin: Option<VsockStream>,
    /// Guest to host, and both ways with a terminal.
    pub stdout: Option<VsockStream>,
    /// Guest to host.
    pub stderr: Option<VsockStream>,
}

/// Claims streams.
#[derive(Debug, Clone)]
pub struct Streams(mpsc::Sender<Message>);

impl Streams {
    /// Takes streams from this listener from now on.
    #[must_use]
    pub fn serve(listener: VsockListener) -> Self {
        let (mailbox, inbox) = mpsc::channel(MAILBOX);
        tokio::spawn(accept(listener, mailbox.clone()));
        tokio::spawn(Registry::default().run(inbox, mailbox.clone()));
        Self(mailbox)
    }

    /// Waits for all streams that a request names.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn claim(&self, tokens: Tokens) -> Result<Claimed, StreamError> {
        let named: Vec<_> =
            [tokens.stdin, tokens.stdout, tokens.stderr].into_iter().flatten().collect();
        for (index, token) in named.iter().enumerate() {
            if named.iter().take(index).any(|other| other == token) {
                return Err(StreamError::NamedTwice(token.get()));
            }
        }
        Ok(Claimed {
            stdin: self.claim_one(tokens.stdin).await?,
            stdout: self.claim_one(tokens.stdout).await?,
            stderr: self.claim_one(tokens.stderr).await?,
        })
    }

    /// Waits for a stream that is nobody's standard stream.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn claim_single(&self, token: StreamToken) -> Result<VsockStream, StreamError> {
        let claimed = self.claim_one(Some(token)).await?;
        claimed.ok_or(StreamError::NotOpened(token.get()))
    }

    /// Puts a stream among those that the host has opened.
    pub async fn offer(&self, token: StreamToken, stream: VsockStream) {
        // Without an actor the stream is closed.
        let _ = self.0.send(Message::Opened(token, stream)).await;
    }

    async fn claim_one(
        &self,
        token: Option<StreamToken>,
    ) -> Result<Option<VsockStream>, StreamError> {
        let Some(token) = token else { return Ok(None) };
        let (reply, stream) = oneshot::channel();
        // An actor that is gone answers as one that has no stream: the sender is dropped.
        let _ = self.0.send(Message::Claim(token, reply)).await;
        stream.await.map(Some).map_err(|_| StreamError::NotOpened(token.get()))
    }
}

/// Whether it is the host that has connected. Where the kernel has CONFIG_VSOCKETS_LOOPBACK, a
/// process of the guest can too: a token of its choice would bring it another container's streams.
#[must_use]
pub fn is_host(peer: VsockAddr) -> bool {
    peer.cid() == HOST_CID
}

async fn accept(listener: VsockListener, mailbox: mpsc::Sender<Message>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if is_host(peer) => {
                tokio::spawn(introduce(stream, mailbox.clone()));
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Reads a stream's token.
async fn introduce(mut stream: VsockStream, mailbox: mpsc::Sender<Message>) {
    let mut token = [0; 8];
    if !matches!(timeout(CLAIM_DEADLINE, stream.read_exact(&mut token)).await, Ok(Ok(_))) {
        return;
    }
    if let Some(token) = StreamToken::new(u64::from_le_bytes(token)) {
        // Without an actor the stream is closed.
        let _ = mailbox.send(Message::Opened(token, stream)).await;
    }
}

#[derive(Default)]
struct Registry {
    waiting: HashMap<StreamToken, Waiting>,
    /// Tells a deadline from that of an earlier wait for the same token.
    count: u64,
}

impl Registry {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>, mailbox: mpsc::Sender<Message>) {
        while let Some(message) = inbox.recv().await {
            let waits_for = match message {
                Message::Opened(token, stream) => self.opened(token, stream),
                Message::Claim(token, reply) => self.claimed(token, reply),
                Message::Expired(token, count) => {
                    self.expire(token, count);
                    None
                }
            };
            if let Some(token) = waits_for {
                let (mailbox, count) = (mailbox.clone(), self.count);
                tokio::spawn(async move {
                    tokio::time::sleep(CLAIM_DEADLINE).await;
                    let _ = mailbox.send(Message::Expired(token, count)).await;
                });
            }
        }
    }

    /// The token whose deadline begins, if any.
    fn opened(&mut self, token: StreamToken, stream: VsockStream) -> Option<StreamToken> {
        match self.waiting.remove(&token) {
            Some(Waiting::Request(_, reply)) => {
                // A request that was given up closes the stream.
                let _ = reply.send(stream);
                None
            }
            // Opened twice: the first stays, the second is closed.
            Some(first @ Waiting::Stream(..)) => {
                self.waiting.insert(token, first);
                None
            }
            None if self.waiting.len() >= MAX_WAITING => None,
            None => {
                self.count += 1;
                self.waiting.insert(token, Waiting::Stream(self.count, stream));
                Some(token)
            }
        }
    }

    fn claimed(
        &mut self,
        token: StreamToken,
        reply: oneshot::Sender<VsockStream>,
    ) -> Option<StreamToken> {
        match self.waiting.remove(&token) {
            Some(Waiting::Stream(_, stream)) => {
                let _ = reply.send(stream);
                None
            }
            // The earlier request for it ends without one.
            Some(Waiting::Request(..)) | None => {
                self.count += 1;
                self.waiting.insert(token, Waiting::Request(self.count, reply));
                Some(token)
            }
        }
    }

    fn expire(&mut self, token: StreamToken, count: u64) {
        let late = match self.waiting.get(&token) {
            Some(Waiting::Stream(since, _) | Waiting::Request(since, _)) => *since == count,
            None => false,
        };
        if late {
            self.waiting.remove(&token);
        }
    }
}
