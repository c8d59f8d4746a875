//! The vsock device behind a transport, virtio 1.2 §5.10: [`crate::vsock`] with the host's side in
//! another process.
//!
//! Streams and orders are served whether or not a driver is there: a connection that the host opens
//! early waits for the guest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use virtio_queue::Queue;

use super::{ActivateError, Activation, Counters, Interrupt, Kind, read_space};
use crate::Memory;
use crate::channel::Channel;
use crate::virtio;
use crate::vsock::Config;
use crate::vsock::device::{self, RX_QUEUE, TX_QUEUE};
use crate::vsock::muxer::Muxer;
use crate::vsock::relay::Remote;
use crate::vsock::streams::Streams;

/// Receive, transmit, events. virtio 1.2 §5.10.2.
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];
/// Sources, in their order.
const SOURCE_ORDERS: usize = 0;
const SOURCE_STREAMS: usize = 1;

const MAX_EVENTS: usize = 64;
/// Rounds of events and of passes over the queues before other devices get a turn.
const MAX_ROUNDS: usize = 16;

/// How far the guest came, as seen from its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// No driver was there yet.
    Nothing,
    /// The guest's driver started the queues: its kernel runs.
    Driver,
    /// The guest sent a packet: its user space runs.
    Packet,
}

/// [`Progress`] as others may look at it.
#[derive(Debug, Clone, Default)]
pub struct ProgressCell(Arc<AtomicU8>);

impl ProgressCell {
    fn advance(&self, to: Progress) {
        self.0.fetch_max(to as u8, Ordering::Relaxed);
    }

    /// How far it came.
    #[must_use]
    pub fn get(&self) -> Progress {
        let reached = self.0.load(Ordering::Relaxed);
        [Progress::Nothing, Progress::Driver]
            .into_iter()
            .find(|progress| *progress as u8 == reached)
            .unwrap_or(Progress::Packet)
    }
}

#[derive(Debug)]
struct Active {
    memory: Memory,
    queues: Vec<Option<Queue>>,
    interrupt: Arc<Interrupt>,
}

/// See the module.
#[derive(Debug)]
pub struct Device {
    muxer: Muxer,
    streams: Streams,
    /// Of the streams' sockets.
    epoll: Epoll,
    remote: Remote,
    /// The other process has ended the talk.
    deserted: bool,
    active: Option<Active>,
    progress: ProgressCell,
    broken_queues: u64,
}

impl Device {
    /// A device whose host side is at the other end of `host`.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new(config: Config, host: Channel) -> io::Result<Self> {
        Ok(Self {
            muxer: Muxer::new(config),
            streams: Streams::default(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            remote: Remote::new(host),
            deserted: false,
            active: None,
            progress: ProgressCell::default(),
            broken_queues: 0,
        })
    }

    /// To be asked how far the guest came.
    #[must_use]
    pub fn progress(&self) -> ProgressCell {
        self.progress.clone()
    }

    fn take_orders(&mut self) {
        if self.deserted {
            return;
        }
        match self.remote.serve(&mut self.muxer, &mut self.streams, &self.epoll) {
            Ok(true) => {}
            Ok(false) => self.deserted = true,
            Err(error) => {
                // Whoever is there is to learn that nothing is served any more.
                tracing::warn!(error = &error as &dyn std::error::Error, "vsock host side ended");
                self.remote.close();
                self.deserted = true;
            }
        }
        if self.deserted {
            self.streams.close_all();
        }
    }

    /// True when there may be more.
    fn take_events(&mut self) -> bool {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        for _ in 0..MAX_ROUNDS {
            let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                // None of its causes can be: the descriptor is an epoll, the buffer is there.
                Err(_) => return false,
            };
            for event in &events[..count] {
                self.streams.on_event(&mut self.muxer, *event);
            }
        }
        true
    }

    /// Lets packets and bytes move. True when there may be more to move.
    fn work(&mut self) -> bool {
        for _ in 0..MAX_ROUNDS {
            let received = self.pass(TX_QUEUE);
            self.streams.serve(&mut self.muxer, &self.epoll);
            let sent = self.pass(RX_QUEUE);
            self.streams.serve(&mut self.muxer, &self.epoll);
            if !received && !sent {
                return false;
            }
        }
        true
    }

    /// True when buffers were used.
    fn pass(&mut self, index: usize) -> bool {
        let Some(active) = &mut self.active else { return false };
        if active.interrupt.is_reset_needed() {
            return false;
        }
        let Some(queue) = active.queues.get_mut(index).and_then(Option::as_mut) else {
            return false;
        };
        let outcome = if index == RX_QUEUE {
            device::process_rx(&mut self.muxer, &active.memory, queue)
        } else {
            device::process_tx(&mut self.muxer, &active.memory, queue)
        };
        match outcome {
            Ok(outcome) => {
                if index == TX_QUEUE && outcome.progress {
                    self.progress.advance(Progress::Packet);
                }
                if outcome.notify {
                    active.interrupt.used();
                }
                outcome.progress
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, index, "vsock queue");
                self.broken_queues += 1;
                active.interrupt.needs_reset();
                false
            }
        }
    }

    /// Works until there is nothing to do, or asks for another turn.
    fn turn(&mut self) {
        let events = self.take_events();
        let packets = self.work();
        if (events || packets)
            && let Some(active) = &self.active
        {
            active.interrupt.again(TX_QUEUE);
        }
    }
}

impl virtio::Device for Device {
    fn kind(&self) -> Kind {
        Kind::Vsock
    }

    /// Streams are there without any. virtio 1.2 §5.10.3.
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// virtio 1.2 §5.10.4: the guest's address.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.muxer.config().guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, .. } = activation;
        if [RX_QUEUE, TX_QUEUE].iter().any(|&index| !matches!(queues.get(index), Some(Some(_)))) {
            let reason = "the driver set up no queues for packets".to_owned();
            return Err(ActivateError { kind: Kind::Vsock, reason });
        }
        self.active = Some(Active { memory, queues, interrupt });
        self.progress.advance(Progress::Driver);
        Ok(())
    }

    /// Connections end; listeners stay.
    fn reset(&mut self) {
        if self.active.take().is_some() {
            self.streams.close_all();
            self.muxer.reset();
        }
    }

    fn on_kick(&mut self, _: usize) {
        self.turn();
    }

    fn sources(&self) -> Vec<(BorrowedFd<'_>, EpollFlags)> {
        vec![
            (self.remote.as_fd(), EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT),
            (self.epoll.0.as_fd(), EpollFlags::EPOLLIN),
        ]
    }

    fn on_source(&mut self, index: usize, _: EpollFlags) {
        match index {
            SOURCE_ORDERS => self.take_orders(),
            SOURCE_STREAMS => {}
            _ => return,
        }
        self.turn();
    }

    fn counters(&self) -> Counters {
        let traffic = self.muxer.traffic();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Counters::from([
            ("broken_queues", self.broken_queues),
            ("connections", count(self.muxer.len())),
            ("malformed", traffic.malformed),
            ("received_bytes", traffic.received_bytes),
            ("received_packets", traffic.received_packets),
            ("sent_bytes", traffic.sent_bytes),
            ("sent_packets", traffic.sent_packets),
        ])
    }
}

#[cfg(test)]
mod tests;
