//! Packets of the guest. Each is copied once, so that what is checked is what is sent.

use std::io::Read;

use virtio_queue::Queue;

use super::header::{HEADER_LEN, Header};
use super::{MAX_PACKET_LEN, MIN_FRAME_LEN, Mac, Offloads, Port, Sent, TX_LIMITS};
use crate::Memory;
use crate::virtio::queue::{self, Chain, Request};
use crate::virtio::{Outcome, QueueError, Served};

/// Where a frame names its sender, and where that ends. linux/if_ether.h, struct ethhdr.
const SOURCE_MAC: std::ops::Range<usize> = 6..12;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that were sent.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Chains that hold no packet, and headers that make no sense.
    pub malformed: u64,
    /// Packets dropped because they named another sender.
    pub spoofed: u64,
    /// Packets that the port refused.
    pub refused: u64,
    /// How often the port was full.
    pub blocked: u64,
}

/// The guest's sending side. Its counts outlive a reset.
#[derive(Debug)]
pub struct Transmitter {
    buffer: Vec<u8>,
    offloads: Offloads,
    sender: Option<Mac>,
    /// Bytes that were taken from the limit for a packet that the port had no room for.
    paid: u64,
    counts: Counts,
}

impl Transmitter {
    /// With a `sender`, frames of any other are dropped.
    #[must_use]
    pub fn new(sender: Option<Mac>) -> Self {
        Self {
            buffer: vec![0; MAX_PACKET_LEN],
            offloads: Offloads::default(),
            sender,
            paid: 0,
            counts: Counts::default(),
        }
    }

    /// A driver begins, with which these were agreed on.
    pub fn start(&mut self, offloads: Offloads) {
        self.offloads = offloads;
        self.paid = 0;
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a packet waits for the port.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.paid > 0
    }

    /// Sends packets until there is none, the port or the limit takes no more, or a full queue of
    /// them was sent. `allow` is asked before so many bytes are sent.
    ///
    /// # Errors
    /// [`QueueError`]: the queue is broken.
    pub fn process(
        &mut self,
        memory: &Memory,
        queue: &mut Queue,
        port: &mut impl Port,
        mut allow: impl FnMut(u64) -> bool,
    ) -> Result<Outcome, QueueError> {
        queue::pass(queue, memory, |chain| self.send(memory, chain, port, &mut allow))
    }

    fn send(
        &mut self,
        memory: &Memory,
        chain: Chain<'_>,
        port: &mut impl Port,
        allow: &mut impl FnMut(u64) -> bool,
    ) -> Served {
        let Some(len) = self.gather(memory, chain) else {
            self.counts.malformed += 1;
            return Served::Used(0);
        };
        let packet = &self.buffer[..len];
        let frame = &packet[HEADER_LEN..];
        if self.sender.is_some_and(|sender| frame[SOURCE_MAC] != sender.0) {
            self.counts.spoofed += 1;
            return Served::Used(0);
        }
        let bytes = frame.len() as u64;
        // The guest may have changed the packet that waits: it pays for what is more.
        if bytes > self.paid && !allow(bytes - self.paid) {
            return Served::Left;
        }
        self.paid = 0;
        match port.send(packet) {
            Sent::Done => {
                self.counts.packets += 1;
                self.counts.bytes += bytes;
            }
            Sent::Full => {
                self.paid = bytes;
                self.counts.blocked += 1;
                return Served::Left;
            }
            Sent::Refused => self.counts.refused += 1,
        }
        Served::Used(0)
    }

    /// Copies a packet into the buffer, with the header that the host gets. Its length.
    fn gather(&mut self, memory: &Memory, chain: Chain<'_>) -> Option<usize> {
        let mut reader = Request::split(chain, memory, TX_LIMITS).ok()?.reader;
        let len = reader.available_bytes();
        let packet = self.buffer.get_mut(..len)?;
        reader.read_exact(packet).ok()?;
        let (header, frame) = packet.split_first_chunk_mut::<HEADER_LEN>()?;
        if frame.len() < MIN_FRAME_LEN {
            return None;
        }
        let sent = Header::from_bytes(*header).sent(frame.len(), self.offloads).ok()?;
        *header = sent.to_bytes(0);
        Some(len)
    }
}
