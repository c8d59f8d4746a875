//! The device: its configuration space, and its back end from the start to the end of a driver.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::QueueT;

use super::back_end::{BackEnd, BackEndError, DEADLINE, Vring};
use crate::Memory;
use crate::virtio::{self, ActivateError, Activation, Counters, Interrupt, Kind, read_space};

/// The most bytes of a tag. virtio 1.2 §5.11.4.
const TAG_LEN: usize = 36;
/// Bytes of the configuration space: tag and number of request queues. virtio 1.2 §5.11.4.
const CONFIG_LEN: usize = TAG_LEN + 4;
/// The most descriptors of a queue. Linux reads and writes at once what has room in one: 1 MiB.
const QUEUE_SIZE: u16 = 1024;
/// The most request queues: more than there are processors are of no use to anybody.
const MAX_REQUEST_QUEUES: u8 = 32;
/// What the transport offers for the rings, which are the back end's to read.
const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A file system device as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Descriptor of a stream socket that is connected to the back end.
    pub socket: RawFd,
    /// The name that the guest mounts it by; up to 36 bytes.
    pub tag: String,
    /// Queues beside the one of urgent requests; 1 to 32.
    #[serde(default = "one")]
    pub request_queues: u8,
}

fn one() -> u8 {
    1
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No guest can mount it.
    #[error("set up file system device: tag {tag:?} is not 1 to {TAG_LEN} bytes without zeroes")]
    Tag {
        /// As asked for.
        tag: String,
    },
    /// None, or too many.
    #[error("set up file system device: {queues} request queues are not 1 to {MAX_REQUEST_QUEUES}")]
    Queues {
        /// As asked for.
        queues: u8,
    },
    /// Its back end is none.
    #[error("set up file system device")]
    BackEnd(#[from] BackEndError),
}

/// See the module.
///
/// ```text
/// Idle --DRIVER_OK--> Active --reset--> Idle
///   '------------------'--the back end fails--> Dead
/// ```
#[derive(Debug)]
pub struct Device {
    space: [u8; CONFIG_LEN],
    queue_sizes: Vec<u16>,
    back_end: BackEnd,
    state: State,
    failures: u64,
}

#[derive(Debug)]
enum State {
    Idle,
    Active { started: Vec<u8>, interrupt: Arc<Interrupt> },
    Dead,
}

impl Device {
    /// The device of `config` with the back end at the other end of `socket`, whatever number the
    /// configuration has for it. Waits for the back end, for some seconds at most.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn new(config: &Config, socket: OwnedFd) -> Result<Self, FsError> {
        Self::with_deadline(config, socket, DEADLINE)
    }

    fn with_deadline(
        config: &Config,
        socket: OwnedFd,
        deadline: Duration,
    ) -> Result<Self, FsError> {
        let space = config_space(config)?;
        let queues = usize::from(config.request_queues) + 1;
        let back_end = BackEnd::new(socket, deadline)?;
        let features = back_end.open(queues as u64)?;
        if features & RING_FEATURES != RING_FEATURES {
            let what = "virtio 1.0 rings with indirect descriptors and event indexes";
            return Err(BackEndError::Lacks { what }.into());
        }
        let queue_sizes = vec![QUEUE_SIZE; queues];
        Ok(Self { space, queue_sizes, back_end, state: State::Idle, failures: 0 })
    }

    fn start(&mut self, activation: &Activation) -> Result<Vec<u8>, BackEndError> {
        self.back_end.begin();
        self.back_end.set_features(activation.features)?;
        self.back_end.set_memory(&activation.memory)?;
        let interrupt = &activation.interrupt;
        let mut started = Vec::new();
        for (index, (queue, kick)) in (0..).zip(activation.queues.iter().zip(interrupt.kicks())) {
            let Some(queue) = queue else { continue };
            let vring = Vring {
                index,
                size: queue.size(),
                descriptors: queue.desc_table(),
                available: queue.avail_ring(),
                used: queue.used_ring(),
            };
            self.back_end.start(&vring, kick.as_fd(), interrupt.as_fd())?;
            started.push(index);
        }
        Ok(started)
    }

    /// Guest memory is another: a back end at work is told, and has no more than that when this
    /// returns.
    pub fn share(&mut self, memory: &Memory) {
        if !matches!(self.state, State::Active { .. }) {
            return;
        }
        self.back_end.begin();
        if let Err(error) = self.back_end.set_memory(memory) {
            self.give_up(&error);
        }
    }

    /// The back end is of no use any more. A driver that uses it is told.
    fn give_up(&mut self, error: &BackEndError) {
        tracing::warn!(error = error as &dyn std::error::Error, "file system back end given up");
        self.failures += 1;
        self.back_end.close();
        if let State::Active { interrupt, .. } = std::mem::replace(&mut self.state, State::Dead) {
            interrupt.needs_reset();
        }
    }
}

fn config_space(config: &Config) -> Result<[u8; CONFIG_LEN], FsError> {
    let tag = config.tag.as_bytes();
    if tag.is_empty() || tag.len() > TAG_LEN || tag.contains(&0) {
        return Err(FsError::Tag { tag: config.tag.clone() });
    }
    let queues = config.request_queues;
    if !(1..=MAX_REQUEST_QUEUES).contains(&queues) {
        return Err(FsError::Queues { queues });
    }
    let mut space = [0; CONFIG_LEN];
    space[..tag.len()].copy_from_slice(tag);
    space[TAG_LEN..].copy_from_slice(&u32::from(queues).to_le_bytes());
    Ok(space)
}

impl virtio::Device for Device {
    fn kind(&self) -> Kind {
        Kind::Fs
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn takes_kicks(&self) -> bool {
        true
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let refused = |reason| ActivateError { kind: Kind::Fs, reason };
        if matches!(self.state, State::Dead) {
            return Err(refused("its back end was given up".into()));
        }
        // The back end raises the interrupt as soon as it has it, and cannot reach the register
        // that says why.
        activation.interrupt.hold_used();
        match self.start(&activation) {
            Ok(started) => {
                self.state = State::Active { started, interrupt: activation.interrupt };
                Ok(())
            }
            Err(error) => {
                self.give_up(&error);
                Err(refused(error.to_string()))
            }
        }
    }

    fn reset(&mut self) {
        let State::Active { started, .. } = &self.state else { return };
        self.back_end.begin();
        let stopped = started.iter().try_for_each(|&index| self.back_end.stop(index));
        match stopped {
            Ok(()) => self.state = State::Idle,
            Err(error) => self.give_up(&error),
        }
    }

    fn on_kick(&mut self, _: usize) {}

    fn sources(&self) -> Vec<(BorrowedFd<'_>, EpollFlags)> {
        vec![(self.back_end.as_fd(), EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP)]
    }

    fn on_source(&mut self, _: usize, _: EpollFlags) {
        // A reply that was read since is no event; one that nobody asked for is.
        if !matches!(self.state, State::Dead) && !self.back_end.is_quiet() {
            self.give_up(&BackEndError::Gone { request: 0 });
        }
    }

    fn counters(&self) -> Counters {
        Counters::from([("back_end_failures", self.failures)])
    }
}

#[cfg(test)]
mod tests;
