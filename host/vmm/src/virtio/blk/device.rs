//! The device behind its trait: configuration space, the queue and the engine. Knows no transport.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use virtio_queue::Queue;

use super::Config;
use super::core::{self, Counts, Disk, Executor, Pending};
use super::engine::{self, Done, Engine, MAX_IN_FLIGHT, OnThread};
use super::image::{Image, ImageError};
use super::request::{
    self, Answer, ID_LEN, MAX_DISCARD_SECTORS, MAX_DISCARD_SEG, MAX_WRITE_ZEROES_SECTORS,
    MAX_WRITE_ZEROES_SEG, SECTOR_LEN, SEG_MAX, SIZE_MAX, Shape,
};
use super::segments::Segments;
use super::task::Task;
use crate::Memory;
use crate::rate_limit::{Limits, RateLimiter};
use crate::virtio::{
    self, ActivateError, Activation, Counters, Interrupt, Kind, QueueError, read_space,
};

/// Feature bits. virtio 1.2 §5.2.3.
pub mod feature {
    /// VIRTIO_BLK_F_SIZE_MAX
    pub const SIZE_MAX: u64 = 1 << 1;
    /// VIRTIO_BLK_F_SEG_MAX
    pub const SEG_MAX: u64 = 1 << 2;
    /// VIRTIO_BLK_F_RO
    pub const READ_ONLY: u64 = 1 << 5;
    /// VIRTIO_BLK_F_BLK_SIZE
    pub const BLK_SIZE: u64 = 1 << 6;
    /// VIRTIO_BLK_F_FLUSH
    pub const FLUSH: u64 = 1 << 9;
    /// VIRTIO_BLK_F_TOPOLOGY
    pub const TOPOLOGY: u64 = 1 << 10;
    /// VIRTIO_BLK_F_DISCARD
    pub const DISCARD: u64 = 1 << 13;
    /// VIRTIO_BLK_F_WRITE_ZEROES
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Bytes of the configuration space up to write_zeroes_may_unmap and its padding. virtio 1.2
/// §5.2.4.
const CONFIG_LEN: usize = 60;
/// Sectors of a file system's block, of which space is given up and physical sectors are: 4 KiB.
const BLOCK_SECTORS: u32 = 8;
/// Its logarithm.
const PHYSICAL_BLOCK_EXP: u8 = 3;

/// Index of [`virtio::Device::sources`]: the engine's event.
const ENGINE_SOURCE: usize = 0;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The file is none for a disk.
    #[error("disk {serial}")]
    Image {
        /// Of the disk.
        serial: String,
        /// What is wrong.
        #[source]
        source: ImageError,
    },
    /// The guest could not find it.
    #[error("disk {serial:?}: a serial number is 1 to {ID_LEN} printable characters")]
    Serial {
        /// As configured.
        serial: String,
    },
    /// Nobody to do its work.
    #[error("start the engine of disk {serial}")]
    Engine {
        /// Of the disk.
        serial: String,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
}

/// ```text
/// Inactive --activate--> Active --ring that lies--> Broken
///     ^---------------------'---------reset-----------'
/// ```
#[derive(Debug)]
enum State {
    Inactive,
    Active(Active),
    Broken,
}

/// What lasts from DRIVER_OK to reset.
#[derive(Debug)]
struct Active {
    memory: Arc<Memory>,
    queue: Queue,
    interrupt: Arc<Interrupt>,
    in_flight: usize,
    /// See [`needs_stable_writes`].
    stable_writes: bool,
}

/// A disk of the guest.
pub struct Device {
    disk: Disk,
    features: u64,
    config: [u8; CONFIG_LEN],
    state: State,
    // Dropped with everything done: see `engine`.
    engine: Box<dyn Engine>,
    limiter: RateLimiter,
    counts: Counts,
    /// Kept for its room.
    done: Vec<Done>,
}

impl Device {
    /// A disk of the image `file`, the descriptor that `config` names. Threads, if the engine has
    /// any, run `on_thread` first.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn new(config: &Config, file: OwnedFd, on_thread: &OnThread) -> Result<Self, DeviceError> {
        let serial = || config.serial.clone();
        let id = id(&config.serial).ok_or_else(|| DeviceError::Serial { serial: serial() })?;
        let image = Image::new(file, config.read_only)
            .map_err(|source| DeviceError::Image { serial: serial(), source })?;
        let shape = Shape { sectors: image.sectors(), read_only: config.read_only };
        let failed = |source| DeviceError::Engine { serial: serial(), source };
        let engine = engine::open(config.engine, image.into_file(), on_thread).map_err(failed)?;
        Ok(Self {
            disk: Disk { shape, id, disposable: config.disposable },
            features: features(config),
            config: config_space(shape.sectors),
            state: State::Inactive,
            engine,
            limiter: RateLimiter::new(&config.limits).map_err(failed)?,
            counts: Counts::default(),
            done: Vec::new(),
        })
    }

    /// Who does its work.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    /// Other limits from now on.
    ///
    /// # Errors
    /// Those of timerfd_settime(2).
    pub fn set_limits(&mut self, limits: &Limits) -> io::Result<()> {
        self.limiter.reconfigure(limits)
    }

    /// A handle that lives for as long as a request that was started until now: those alone may
    /// still write where memory is not there any more. `None`: there are none.
    pub fn in_flight(&mut self) -> Option<Weak<Memory>> {
        let State::Active(active) = &mut self.state else { return None };
        let renewed = Arc::new(Memory::clone(&active.memory));
        let old = Arc::downgrade(&std::mem::replace(&mut active.memory, renewed));
        (old.strong_count() > 0).then_some(old)
    }

    /// Gives back what is done, takes what is there, and starts it.
    fn work(&mut self) {
        self.turn(|round, disk, counts| round.run(disk, counts));
    }

    /// `None`: the device has no queue, or none any more, and nothing is at work.
    fn turn<T>(
        &mut self,
        act: impl FnOnce(&mut Round<'_>, &Disk, &mut Counts) -> Result<T, QueueError>,
    ) -> Option<T> {
        let State::Active(active) = &mut self.state else { return None };
        let mut round = Round {
            active,
            engine: self.engine.as_mut(),
            limiter: &mut self.limiter,
            done: &mut self.done,
        };
        let error = match act(&mut round, &self.disk, &mut self.counts) {
            Ok(outcome) => return Some(outcome),
            Err(error) => error,
        };
        tracing::debug!(%error, "queue of a disk");
        self.engine.drain();
        if let State::Active(active) = std::mem::replace(&mut self.state, State::Broken) {
            active.interrupt.needs_reset();
        }
        None
    }
}

/// What one turn of the device works with.
struct Round<'a> {
    active: &'a mut Active,
    engine: &'a mut dyn Engine,
    limiter: &'a mut RateLimiter,
    done: &'a mut Vec<Done>,
}

impl Round<'_> {
    fn run(&mut self, disk: &Disk, counts: &mut Counts) -> Result<(), QueueError> {
        let mut notify = self.give_back(counts)?;
        let memory = Arc::clone(&self.active.memory);
        let mut queue = std::mem::take(&mut self.active.queue);
        let taken = core::take(&mut queue, &memory, disk, counts, self);
        self.active.queue = queue;
        let taken = taken?;
        self.engine.submit();
        // What was in the page cache is done by now: one interrupt for it and for what was refused.
        notify |= taken.notify | self.give_back(counts)?;
        if notify {
            self.active.interrupt.used();
        }
        // What was left for want of room has its turn with the engine's event: each completion that
        // makes room is followed by one.
        if taken.more {
            self.active.interrupt.again(0);
        }
        Ok(())
    }

    /// Gives back what is at work when it is done, and takes nothing. Whether that was all in time.
    fn rest(&mut self, counts: &mut Counts, until: Instant) -> Result<bool, QueueError> {
        let mut notify = self.give_back(counts)?;
        while self.active.in_flight > 0 && engine::wait(&*self.engine, until) {
            self.engine.acknowledge();
            notify |= self.give_back(counts)?;
        }
        if notify {
            self.active.interrupt.used();
        }
        // What waits in the queue had its turn with one of the events that nobody sees any more.
        self.active.interrupt.again(0);
        Ok(self.active.in_flight == 0)
    }

    /// Whether the guest wants an interrupt for it.
    fn give_back(&mut self, counts: &mut Counts) -> Result<bool, QueueError> {
        self.engine.finished(self.done);
        self.active.in_flight = self.active.in_flight.saturating_sub(self.done.len());
        let done = self.done.drain(..).map(|done| (done.pending, done.answer));
        let Active { queue, memory, .. } = &mut *self.active;
        Ok(core::complete(queue, memory, counts, done)?.notify)
    }
}

impl Executor for Round<'_> {
    fn has_room(&mut self) -> bool {
        self.active.in_flight < MAX_IN_FLIGHT
    }

    fn admits(&mut self, bytes: u64) -> bool {
        self.limiter.take(bytes)
    }

    fn start(&mut self, pending: Pending, operation: request::Operation) {
        self.active.in_flight += 1;
        match self.active.task(pending, operation) {
            Ok(task) => self.engine.start(task),
            Err(pending) => self.done.push(Done { pending, answer: Answer::IoError }),
        }
    }
}

impl Active {
    /// The request with its memory; it was checked to be memory.
    fn task(&self, pending: Pending, operation: request::Operation) -> Result<Task, Pending> {
        use request::Operation;
        let segments = |data: &[_]| Segments::of_guest(&self.memory, data);
        let task = match operation {
            Operation::Read { offset, data } => match segments(&data) {
                Some(data) => Task::read(pending, offset, data),
                None => return Err(pending),
            },
            Operation::Write { offset, data } => match segments(&data) {
                Some(data) => Task::write(pending, offset, data),
                None => return Err(pending),
            },
            Operation::Flush => Task::flush(pending),
            Operation::Discard { ranges } => Task::discard(pending, ranges),
            Operation::WriteZeroes { ranges } => Task::write_zeroes(pending, ranges),
            Operation::GetId { .. } => return Err(pending),
        };
        Ok(if self.stable_writes { task.stable() } else { task })
    }
}

impl virtio::Device for Device {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &[128]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, features, interrupt } = activation;
        let queue = queues.into_iter().next().flatten();
        let queue = queue.ok_or_else(|| ActivateError {
            kind: Kind::Block,
            reason: "it has no queue".to_owned(),
        })?;
        let stable_writes = needs_stable_writes(self.disk.disposable, features);
        let memory = Arc::new(memory);
        self.state =
            State::Active(Active { memory, queue, interrupt, in_flight: 0, stable_writes });
        Ok(())
    }

    fn reset(&mut self) {
        // First the kernel, then what it works on.
        self.engine.drain();
        self.done.clear();
        self.state = State::Inactive;
    }

    fn rest(&mut self, until: Instant) -> bool {
        self.turn(|round, _, counts| round.rest(counts, until)).unwrap_or(true)
    }

    fn on_kick(&mut self, _index: usize) {
        self.work();
    }

    fn sources(&self) -> Vec<(BorrowedFd<'_>, EpollFlags)> {
        vec![
            (self.engine.event(), EpollFlags::EPOLLIN),
            (self.limiter.as_fd(), EpollFlags::EPOLLIN),
        ]
    }

    fn on_source(&mut self, index: usize, _events: EpollFlags) {
        if index == ENGINE_SOURCE {
            self.engine.acknowledge();
        } else {
            self.limiter.on_timer();
        }
        self.work();
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counts.counters();
        counters.insert("throttled", self.limiter.throttled());
        counters
    }
}

fn id(serial: &str) -> Option<[u8; ID_LEN]> {
    let printable = serial.bytes().all(|byte| byte.is_ascii_graphic());
    if serial.is_empty() || serial.len() > ID_LEN || !printable {
        return None;
    }
    let mut id = [0; ID_LEN];
    id[..serial.len()].copy_from_slice(serial.as_bytes());
    Some(id)
}

/// A driver that cannot flush takes what is written for safe. virtio 1.2 §5.2.6.2.
fn needs_stable_writes(disposable: bool, features: u64) -> bool {
    !disposable && features & feature::FLUSH == 0
}

fn features(config: &Config) -> u64 {
    let always = feature::SIZE_MAX | feature::SEG_MAX | feature::BLK_SIZE | feature::TOPOLOGY;
    if config.read_only {
        return always | feature::READ_ONLY;
    }
    // A disk that nobody misses looks like one without a cache, which is never flushed.
    let flush = if config.disposable { 0 } else { feature::FLUSH };
    always | flush | feature::DISCARD | feature::WRITE_ZEROES
}

/// struct virtio_blk_config. virtio 1.2 §5.2.4.
fn config_space(sectors: u64) -> [u8; CONFIG_LEN] {
    let mut space = [0; CONFIG_LEN];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(8, &SIZE_MAX.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &u32::try_from(SECTOR_LEN).unwrap_or(512).to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXP]);
    // min_io_size
    put(26, &u16::try_from(BLOCK_SECTORS).unwrap_or(8).to_le_bytes());
    // num_queues
    put(34, &1u16.to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_DISCARD_SEG.to_le_bytes());
    put(44, &BLOCK_SECTORS.to_le_bytes());
    put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
    put(52, &MAX_WRITE_ZEROES_SEG.to_le_bytes());
    // write_zeroes_may_unmap
    put(56, &[1]);
    space
}

#[cfg(test)]
mod tests;
