//! The turns of all devices: one epoll over the kicks of their queues and their own descriptors.
//! Knows no device.
//!
//! Whatever waits for its turn is in the epoll and nowhere else: a loop that is not dispatched for
//! a while loses nothing. A queue with more in it than one pass takes kicks itself, and so comes
//! after all that was ready before it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::virtio::mmio::Transport;

/// Turns of one dispatch.
const TURNS: usize = 64;

/// What an event is of, as the kernel keeps it for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Kick { device: usize, queue: usize },
    Source { device: usize, source: usize },
}

impl Token {
    const SOURCE: u64 = 1 << 63;

    fn encode(self) -> u64 {
        let (kind, device, index) = match self {
            Self::Kick { device, queue } => (0, device, queue),
            Self::Source { device, source } => (Self::SOURCE, device, source),
        };
        kind | (device as u64) << 32 | index as u64
    }

    fn decode(data: u64) -> Option<Self> {
        let device = usize::try_from((data & !Self::SOURCE) >> 32).ok()?;
        let index = usize::try_from(data & u64::from(u32::MAX)).ok()?;
        Some(match data & Self::SOURCE {
            0 => Self::Kick { device, queue: index },
            _ => Self::Source { device, source: index },
        })
    }
}

/// See the module. Readable when there is something to dispatch.
pub struct EventLoop {
    epoll: Epoll,
    transports: Vec<Arc<Transport>>,
}

impl EventLoop {
    /// Watches all kicks and sources.
    ///
    /// # Errors
    /// Those of epoll_create1(2) and epoll_ctl(2).
    pub fn new(transports: &[Arc<Transport>]) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (device, transport) in transports.iter().enumerate() {
            let taken = transport.device().takes_kicks();
            for (queue, kick) in transport.kicks().iter().enumerate().filter(|_| !taken) {
                let token = Token::Kick { device, queue }.encode();
                epoll.add(kick, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            }
            for (source, (descriptor, events)) in transport.device().sources().iter().enumerate() {
                let token = Token::Source { device, source }.encode();
                epoll.add(descriptor, EpollEvent::new(*events | EpollFlags::EPOLLET, token))?;
            }
        }
        Ok(Self { epoll, transports: transports.to_vec() })
    }

    /// Gives a turn to what is ready now, and returns how many there were. Does not wait; may leave
    /// some for the next call.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn dispatch(&mut self) -> io::Result<usize> {
        let mut events = [EpollEvent::empty(); TURNS];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(ready) => ready,
            // The rest of the thread may have something to do.
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(ready) {
            self.turn(event);
        }
        Ok(ready)
    }

    fn turn(&self, event: &EpollEvent) {
        match Token::decode(event.data()) {
            Some(Token::Kick { device, queue }) => {
                let Some(transport) = self.transports.get(device) else { return };
                if let Some(kick) = transport.kicks().get(queue) {
                    // Drained before the queue is looked at: what comes then is another turn.
                    // EAGAIN: somebody else has drained it.
                    let _ = kick.read();
                }
                transport.on_kick(queue);
            }
            Some(Token::Source { device, source }) => {
                let Some(transport) = self.transports.get(device) else { return };
                transport.on_source(source, event.events());
            }
            None => {}
        }
    }
}

impl AsFd for EventLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

#[cfg(test)]
mod tests;
