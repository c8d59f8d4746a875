//! The device: its queues, its tap, its limits and its configuration space. Knows no packet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};
use virtio_queue::Queue;

use super::core::receive::Receiver;
use super::core::transmit::Transmitter;
use super::core::{Mac, Offloads, QUEUE_SIZE, RX_QUEUE, TX_QUEUE, feature};
use super::tap::{Tap, TapError};
use crate::Memory;
use crate::rate_limit::{Limits, RateLimiter};
use crate::virtio::{self, ActivateError, Activation, Counters, Interrupt, Kind};
use crate::virtio::{Outcome, QueueError, read_space};

/// The link is up. virtio 1.2 §5.1.4.
const STATUS_LINK_UP: u16 = 1;
/// The smallest MTU of IPv4, RFC 791, and of the device, virtio 1.2 §5.1.4.1.
const MIN_MTU: u16 = 68;
/// Bytes of the configuration space up to the MTU. virtio 1.2 §5.1.4.
const CONFIG_LEN: usize = 12;
/// What may be left to the other side, and buffers that are merged.
const FEATURES: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::MRG_RXBUF
    | feature::MAC
    | feature::STATUS;

/// Indexes of the device's descriptors.
const TAP: usize = 0;
const RX_TIMER: usize = 1;
const TX_TIMER: usize = 2;

/// A network device as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Descriptor of the tap: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR.
    pub tap: RawFd,
    /// The guest's address.
    pub mac: Mac,
    /// What the guest is told of the longest packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Frames from another address than the guest's are dropped. To be off where the guest bridges,
    /// or gives its containers addresses of their own (macvlan).
    #[serde(default = "on")]
    pub anti_spoof: bool,
    /// Of what the guest gets.
    #[serde(default)]
    pub rx_limits: Limits,
    /// Of what the guest sends.
    #[serde(default)]
    pub tx_limits: Limits,
}

fn on() -> bool {
    true
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No network works with it.
    #[error("set up network device: an MTU of {mtu} is below {MIN_MTU}")]
    Mtu {
        /// As asked for.
        mtu: u16,
    },
    /// The descriptor is not what is needed.
    #[error("set up network device")]
    Tap(#[from] TapError),
    /// Of timerfd_create(2).
    #[error("set up network device: timers of its limits")]
    Timer(#[source] io::Error),
}

/// See the module.
#[derive(Debug)]
pub struct Device {
    features: u64,
    space: [u8; CONFIG_LEN],
    tap: Tap,
    receiver: Receiver,
    transmitter: Transmitter,
    rx_limiter: RateLimiter,
    tx_limiter: RateLimiter,
    active: Option<Active>,
}

/// What the driver gave.
#[derive(Debug)]
struct Active {
    memory: Memory,
    rx: Queue,
    tx: Queue,
    interrupt: Arc<Interrupt>,
}

impl Device {
    /// The device of `config` on a tap, whatever number the configuration has for it.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn new(config: &Config, tap: OwnedFd) -> Result<Self, NetError> {
        if let Some(mtu) = config.mtu.filter(|&mtu| mtu < MIN_MTU) {
            return Err(NetError::Mtu { mtu });
        }
        let mtu_feature = if config.mtu.is_some() { feature::MTU } else { 0 };
        Ok(Self {
            features: FEATURES | mtu_feature,
            space: config_space(config),
            tap: Tap::new(tap)?,
            receiver: Receiver::default(),
            transmitter: Transmitter::new(config.anti_spoof.then_some(config.mac)),
            rx_limiter: RateLimiter::new(&config.rx_limits).map_err(NetError::Timer)?,
            tx_limiter: RateLimiter::new(&config.tx_limits).map_err(NetError::Timer)?,
            active: None,
        })
    }

    /// Other limits from now on.
    ///
    /// # Errors
    /// Those of timerfd_settime(2).
    pub fn set_limits(&mut self, rx: &Limits, tx: &Limits) -> io::Result<()> {
        self.rx_limiter.reconfigure(rx)?;
        self.tx_limiter.reconfigure(tx)
    }

    fn receive(&mut self) {
        let Some(active) = &mut self.active else { return };
        let limiter = &mut self.rx_limiter;
        let allow = |bytes| limiter.take(bytes);
        let outcome = self.receiver.process(&active.memory, &mut active.rx, &mut self.tap, allow);
        self.conclude(RX_QUEUE, outcome);
    }

    fn transmit(&mut self) {
        let Some(active) = &mut self.active else { return };
        let limiter = &mut self.tx_limiter;
        let allow = |bytes| limiter.take(bytes);
        let outcome =
            self.transmitter.process(&active.memory, &mut active.tx, &mut self.tap, allow);
        self.conclude(TX_QUEUE, outcome);
    }

    fn conclude(&mut self, index: usize, outcome: Result<Outcome, QueueError>) {
        let Some(active) = &self.active else { return };
        active.interrupt.settle(index, &outcome);
        if outcome.is_err() {
            // The other queue is not served either, not even in the same turn.
            self.active = None;
        }
    }
}

/// virtio 1.2 §5.1.4: address, status, number of queue pairs, MTU.
fn config_space(config: &Config) -> [u8; CONFIG_LEN] {
    let mut space = [0; CONFIG_LEN];
    space[..6].copy_from_slice(&config.mac.0);
    space[6..8].copy_from_slice(&STATUS_LINK_UP.to_le_bytes());
    space[8..10].copy_from_slice(&1u16.to_le_bytes());
    space[10..].copy_from_slice(&config.mtu.unwrap_or(0).to_le_bytes());
    space
}

impl virtio::Device for Device {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let refused = |reason: &str| ActivateError { kind: Kind::Net, reason: reason.into() };
        let Activation { memory, queues, features, interrupt } = activation;
        let queues = <[_; 2]>::try_from(queues).ok();
        let Some([Some(rx), Some(tx)]) = queues else {
            return Err(refused("the driver did not set up both queues"));
        };
        let (to_guest, to_host) = (Offloads::to_guest(features), Offloads::to_host(features));
        if !to_guest.make_sense() || !to_host.make_sense() {
            return Err(refused("the driver took segments without checksums"));
        }
        self.tap
            .set_offloads(to_guest)
            .map_err(|error| refused(&format!("TUNSETOFFLOAD: {error}")))?;
        self.receiver.start(to_guest, features & feature::MRG_RXBUF != 0);
        self.transmitter.start(to_host);
        self.active = Some(Active { memory, rx, tx, interrupt });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn on_kick(&mut self, index: usize) {
        match index {
            RX_QUEUE => self.receive(),
            TX_QUEUE => self.transmit(),
            _ => {}
        }
    }

    fn sources(&self) -> Vec<(BorrowedFd<'_>, EpollFlags)> {
        vec![
            (self.tap.as_fd(), EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT),
            (self.rx_limiter.as_fd(), EpollFlags::EPOLLIN),
            (self.tx_limiter.as_fd(), EpollFlags::EPOLLIN),
        ]
    }

    fn on_source(&mut self, index: usize, _: EpollFlags) {
        match index {
            TAP => {
                self.receive();
                if self.transmitter.is_blocked() {
                    self.transmit();
                }
            }
            RX_TIMER => {
                self.rx_limiter.on_timer();
                self.receive();
            }
            TX_TIMER => {
                self.tx_limiter.on_timer();
                self.transmit();
            }
            _ => {}
        }
    }

    fn counters(&self) -> Counters {
        let (rx, tx) = (self.receiver.counts(), self.transmitter.counts());
        Counters::from([
            ("malformed", rx.malformed + tx.malformed),
            ("rx_packets", rx.packets),
            ("rx_bytes", rx.bytes),
            ("rx_dropped_too_small", rx.too_small),
            ("rx_dropped_unfit", rx.unfit),
            ("rx_starved", rx.starved),
            ("rx_throttled", self.rx_limiter.throttled()),
            ("tap_failed", rx.failed),
            ("tx_packets", tx.packets),
            ("tx_bytes", tx.bytes),
            ("tx_blocked", tx.blocked),
            ("tx_dropped_spoofed", tx.spoofed),
            ("tx_dropped_refused", tx.refused),
            ("tx_throttled", self.tx_limiter.throttled()),
        ])
    }
}

#[cfg(test)]
mod tests;
