//! The two queues of the device, as plain functions over guest memory, a queue and a port that
//! carries packets. No descriptor and no thread: the device calls them, as may a test or a fuzzer.
//!
//! - [`header`]: what stands before each frame, and which of it makes sense;
//! - [`transmit`]: packets of the guest;
//! - [`receive`]: packets for the guest;
//! - [`used`]: chains that have to appear at once.

pub mod header;
pub mod receive;
pub mod transmit;
pub mod used;

use std::fmt;

use header::HEADER_LEN;
use serde::{Deserialize, Serialize};

use crate::virtio::queue::Limits;

/// Index of the queue of packets for the guest. virtio 1.2 §5.1.2.
pub const RX_QUEUE: usize = 0;
/// Index of the queue of packets of the guest. virtio 1.2 §5.1.2.
pub const TX_QUEUE: usize = 1;
/// The most descriptors of a queue.
pub const QUEUE_SIZE: u16 = 256;

/// Bytes of the shortest frame: an Ethernet header. linux/if_ether.h, ETH_HLEN.
pub const MIN_FRAME_LEN: usize = 14;
/// Bytes of the longest frame: what a receive buffer for segments is to hold. virtio 1.2
/// §5.1.6.3.1.
pub const MAX_FRAME_LEN: usize = 65_562;
/// Bytes of the longest packet: header and frame.
pub const MAX_PACKET_LEN: usize = HEADER_LEN + MAX_FRAME_LEN;

/// The most descriptors of one packet: a direct chain can have no more.
const MAX_CHAIN_LEN: usize = QUEUE_SIZE as usize;
/// What a chain of the guest's packets holds; their length is checked where they are copied.
const TX_LIMITS: Limits = Limits { descriptors: MAX_CHAIN_LEN, readable: u32::MAX, writable: 0 };
/// What a chain for the guest's packets holds.
const RX_LIMITS: Limits = Limits { descriptors: MAX_CHAIN_LEN, readable: 0, writable: u32::MAX };

/// Feature bits. virtio 1.2 §5.1.3.
pub mod feature {
    /// The guest may leave checksums to the host.
    pub const CSUM: u64 = 1 << 0;
    /// The host may leave checksums to the guest.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device tells the MTU.
    pub const MTU: u64 = 1 << 3;
    /// The device tells the MAC address.
    pub const MAC: u64 = 1 << 5;
    /// The host may send TCP over IPv4 unsegmented.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The host may send TCP over IPv6 unsegmented.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The guest may send TCP over IPv4 unsegmented.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The guest may send TCP over IPv6 unsegmented.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// A packet may lie in several receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The device tells whether the link is up.
    pub const STATUS: u64 = 1 << 16;
}

/// What one side may leave to the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums.
    pub checksum: bool,
    /// Segments of TCP over IPv4.
    pub tso4: bool,
    /// Segments of TCP over IPv6.
    pub tso6: bool,
}

impl Offloads {
    /// What the guest may leave to the host.
    #[must_use]
    pub fn to_host(features: u64) -> Self {
        Self::of(features, [feature::CSUM, feature::HOST_TSO4, feature::HOST_TSO6])
    }

    /// What the host may leave to the guest.
    #[must_use]
    pub fn to_guest(features: u64) -> Self {
        Self::of(features, [feature::GUEST_CSUM, feature::GUEST_TSO4, feature::GUEST_TSO6])
    }

    fn of(features: u64, [checksum, tso4, tso6]: [u64; 3]) -> Self {
        let has = |bit| features & bit != 0;
        Self { checksum: has(checksum), tso4: has(tso4), tso6: has(tso6) }
    }

    /// Segments need checksums. virtio 1.2 §5.1.3.1.
    #[must_use]
    pub fn make_sense(self) -> bool {
        self.checksum || !(self.tso4 || self.tso6)
    }
}

/// The address of an Ethernet interface, written `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// The text is not the address of one interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read MAC address {text:?}: six hexadecimal pairs, of one interface, are needed")]
pub struct MacError {
    text: String,
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        parse_mac(&text).ok_or(MacError { text })
    }
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut pairs = text.split(':');
    let mut bytes = [0; 6];
    for byte in &mut bytes {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && !pair.starts_with('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    // The lowest bit of the first byte marks addresses of groups. IEEE 802-2014 §8.2.2.
    let single = bytes[0] & 1 == 0 && bytes != [0; 6];
    (single && pairs.next().is_none()).then_some(Mac(bytes))
}

/// What became of a packet that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It is in the buffer, header and frame, so many bytes.
    Packet(usize),
    /// There is none; the port tells when there is.
    Nothing,
    /// The port does not work now. It tells if it works again.
    Failed,
}

/// What became of a packet that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Done,
    /// Not now; the port tells when.
    Full,
    /// Never.
    Refused,
}

/// What carries packets: a tap, or a test. Each is [`HEADER_LEN`] bytes of header and a frame.
pub trait Port {
    /// Writes the next packet to `buffer`; what does not fit is lost.
    fn receive(&mut self, buffer: &mut [u8]) -> Received;
    /// Takes a packet.
    fn send(&mut self, packet: &[u8]) -> Sent;
}

#[cfg(test)]
mod tests;
