//! The thread that serves one front end: waits for its requests, the guest's kicks, the host's
//! streams and the handle's requests, and lets the device core work on them.
//!
//! It ends when the front end closes its socket or breaks the protocol; every stream then reads an
//! end, and handles refuse.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use super::backend::{Backend, QUEUES};
use crate::vsock::Config;
use crate::vsock::device::{self, RX_QUEUE, TX_QUEUE};
use crate::vsock::handle::{Mailbox, VsockHandle};
use crate::vsock::muxer::Muxer;
use crate::vsock::streams::Streams;

/// Epoll data beside those of streams.
const TOKEN_FRONT_END: u64 = u64::MAX;
const TOKEN_MAILBOX: u64 = u64::MAX - 1;
/// Of the first queue; the others follow downwards.
const TOKEN_KICK: u64 = u64::MAX - 2;

const MAX_EVENTS: usize = 64;
/// Passes over the queues before other events get a turn.
const MAX_PASSES: usize = 16;

/// Why the device ended other than by the front end's end.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Of epoll(7).
    #[error("wait for events of the vsock device")]
    Wait(#[from] Errno),
    /// The front end broke the protocol, or asked for what the device cannot be.
    #[error("serve the vsock device over vhost-user")]
    Protocol(#[source] VhostError),
    /// Of dup(2).
    #[error("watch the kicks of the vsock device")]
    Kick(#[source] io::Error),
    /// The thread panicked; its message went to standard error.
    #[error("the thread of the vsock device panicked")]
    Panicked,
}

/// How far the guest came, as seen from its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// The front end said nothing.
    Nothing,
    /// The front end knows the device: its machine is built.
    FrontEnd,
    /// The guest's driver started the queues: its kernel runs.
    Driver,
    /// The guest sent a packet: its user space runs.
    Packet,
}

/// Written by the thread of the device, read by others.
#[derive(Debug, Default)]
struct Status {
    progress: AtomicU8,
    lost_guest: AtomicBool,
}

impl Status {
    fn advance(&self, to: Progress) {
        self.progress.fetch_max(to as u8, Ordering::Relaxed);
    }

    fn progress(&self) -> Progress {
        [Progress::Nothing, Progress::FrontEnd, Progress::Driver]
            .into_iter()
            .find(|progress| *progress as u8 == self.progress.load(Ordering::Relaxed))
            .unwrap_or(Progress::Packet)
    }
}

/// A device being served.
#[derive(Debug)]
pub struct Server {
    handle: VsockHandle,
    status: Arc<Status>,
    thread: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    /// The host's side of the device.
    #[must_use]
    pub fn handle(&self) -> &VsockHandle {
        &self.handle
    }

    /// How far the guest came.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.status.progress()
    }

    /// Whether the guest let go of the device after it used it, or the front end did: true before
    /// any stream or listener ends by it.
    #[must_use]
    pub fn lost_guest(&self) -> bool {
        self.status.lost_guest.load(Ordering::Acquire)
    }

    /// Waits until the front end has closed its socket. Blocks.
    ///
    /// # Errors
    /// [`ServerError`] when the device ended otherwise.
    pub fn join(self) -> Result<(), ServerError> {
        self.thread.join().unwrap_or(Err(ServerError::Panicked))
    }
}

/// Serves the device of `config` to the front end at the other end of `socket`, in a thread of
/// its own.
///
/// # Errors
/// Those of epoll(7), eventfd(2) and of a thread's start.
pub fn serve(config: Config, socket: UnixStream) -> io::Result<Server> {
    let (handle, mailbox) = Mailbox::new()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_FRONT_END))?;
    epoll.add(&mailbox, EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_MAILBOX))?;
    let backend = Arc::new(Mutex::new(Backend::new(config.guest_cid)));
    let status = Arc::new(Status::default());
    let mut worker = Worker {
        status: status.clone(),
        epoll,
        mailbox,
        front_end: BackendReqHandler::from_stream(socket, backend.clone()),
        backend,
        kicks: [const { None }; QUEUES],
        muxer: Muxer::new(config),
        streams: Streams::default(),
    };
    let thread = std::thread::Builder::new().name("vsock".into()).spawn(move || worker.run())?;
    Ok(Server { handle, status, thread })
}

struct Worker {
    epoll: Epoll,
    mailbox: Mailbox,
    front_end: BackendReqHandler<Mutex<Backend>>,
    /// Shared with `front_end`, in this thread: the lock is never contended.
    backend: Arc<Mutex<Backend>>,
    /// Copies of the kicks, watched by epoll. Closing a descriptor that the front end shares does
    /// not end the watch, epoll(7): each is taken out before it closes.
    kicks: [Option<File>; QUEUES],
    muxer: Muxer,
    streams: Streams,
    status: Arc<Status>,
}

impl Worker {
    fn run(&mut self) -> Result<(), ServerError> {
        let result = self.serve();
        self.status.lost_guest.store(true, Ordering::Release);
        self.streams.close_all();
        match &result {
            Ok(()) => tracing::debug!("vsock front end gone"),
            Err(error) => {
                tracing::warn!(error = error as &dyn std::error::Error, "vsock device ended")
            }
        }
        result
    }

    fn serve(&mut self) -> Result<(), ServerError> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        let mut busy = false;
        loop {
            let timeout = if busy { EpollTimeout::ZERO } else { EpollTimeout::NONE };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                if !self.dispatch(*event)? {
                    return Ok(());
                }
            }
            busy = self.work();
        }
    }

    /// False when the front end is gone.
    fn dispatch(&mut self, event: EpollEvent) -> Result<bool, ServerError> {
        match event.data() {
            TOKEN_FRONT_END => return self.on_front_end(),
            TOKEN_MAILBOX => self.on_mailbox(),
            token => match usize::try_from(TOKEN_KICK - token.min(TOKEN_KICK)) {
                Ok(index) if index < QUEUES => self.on_kick(index),
                _ => self.streams.on_event(&mut self.muxer, event),
            },
        }
        Ok(true)
    }

    fn on_front_end(&mut self) -> Result<bool, ServerError> {
        match self.front_end.handle_request() {
            Ok(()) => self.status.advance(Progress::FrontEnd),
            Err(VhostError::Disconnected | VhostError::SocketBroken(_)) => return Ok(false),
            // What is left of a message when the front end dies in its midst.
            Err(VhostError::PartialMessage) => return Ok(false),
            Err(VhostError::SocketRetry(_)) => {}
            Err(error) => return Err(ServerError::Protocol(error)),
        }
        let mut backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        if backend.take_reset() {
            self.status.lost_guest.store(true, Ordering::Release);
            self.streams.close_all();
            self.muxer.reset();
        }
        if backend.take_kicks_changed() {
            watch_kicks(&self.epoll, &mut self.kicks, &mut backend)?;
        }
        Ok(true)
    }

    fn on_mailbox(&mut self) {
        self.mailbox.clear();
        while let Some(command) = self.mailbox.next() {
            self.streams.execute(&mut self.muxer, &self.epoll, command);
        }
    }

    /// Only clears the kick: [`Self::work`] looks at every queue.
    fn on_kick(&mut self, index: usize) {
        if let Some(kick) = &mut self.kicks[index] {
            let _ = kick.read(&mut [0; 8]);
        }
    }

    /// Lets packets and bytes move. True when there may be more to move at once.
    fn work(&mut self) -> bool {
        let backend = self.backend.clone();
        let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
        if backend.parts().1.iter_mut().all(|vring| vring.running().is_some()) {
            self.status.lost_guest.store(false, Ordering::Release);
        }
        let mut passes = 0;
        while passes < MAX_PASSES {
            let received = self.process(&mut backend, TX_QUEUE);
            self.streams.serve(&mut self.muxer, &self.epoll);
            let sent = self.process(&mut backend, RX_QUEUE);
            self.streams.serve(&mut self.muxer, &self.epoll);
            if !received && !sent {
                return false;
            }
            passes += 1;
        }
        true
    }

    fn process(&mut self, backend: &mut Backend, index: usize) -> bool {
        let (memory, vrings) = backend.parts();
        let vring = &mut vrings[index];
        let Some(queue) = vring.running() else { return false };
        let outcome = if index == RX_QUEUE {
            device::process_rx(&mut self.muxer, memory.guest(), queue)
        } else {
            device::process_tx(&mut self.muxer, memory.guest(), queue)
        };
        match outcome {
            Ok(outcome) => {
                let packet = index == TX_QUEUE && outcome.progress;
                self.status.advance(if packet { Progress::Packet } else { Progress::Driver });
                if outcome.notify {
                    vring.notify();
                }
                outcome.progress
            }
            Err(error) => {
                // A guest brings this about as often as it likes: no line in the log of a host.
                tracing::debug!(error = &error as &dyn std::error::Error, index, "vsock queue");
                vring.give_up();
                false
            }
        }
    }
}

/// Lets epoll watch the kicks that are there now, and no others.
fn watch_kicks(
    epoll: &Epoll,
    watched: &mut [Option<File>; QUEUES],
    backend: &mut Backend,
) -> Result<(), ServerError> {
    let (_, vrings) = backend.parts();
    let mut token = TOKEN_KICK;
    for (vring, watched) in vrings.iter().zip(watched) {
        if let Some(old) = watched.take() {
            epoll.delete(&old)?;
        }
        if let Some(kick) = vring.kick() {
            let kick = kick.try_clone().map_err(ServerError::Kick)?;
            epoll.add(&kick, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            *watched = Some(kick);
        }
        token -= 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
