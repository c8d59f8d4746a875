//! What a hostile guest does with the network device's rings, and what may reach the host of it.

use std::collections::VecDeque;

use virtio_queue::Queue;

use super::guest::{Subject, play};
use crate::Memory;
use crate::virtio::net::Mac;
use crate::virtio::net::core::header::{F_NEEDS_CSUM, GSO_NONE, HEADER_LEN, Header, MIN_GSO_SIZE};
use crate::virtio::net::core::receive::Receiver;
use crate::virtio::net::core::transmit::Transmitter;
use crate::virtio::net::core::{
    MAX_FRAME_LEN, MIN_FRAME_LEN, Offloads, Port, QUEUE_SIZE, RX_QUEUE, Received, Sent,
};
use crate::virtio::queue::{Outcome, QueueError};

const SENDER: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Packets that wait at the port, at most.
const MAX_WAITING: usize = 64;
/// Of frames for the guest.
const LENGTHS: [usize; 8] =
    [0, MIN_FRAME_LEN, 60, 1514, 4000, 20_000, MAX_FRAME_LEN, MAX_FRAME_LEN + 1];

/// The network device.
pub fn net(bytes: &[u8]) {
    play(bytes, &mut Net::new(0));
}

struct Net {
    receiver: Receiver,
    transmitter: Transmitter,
    port: Wire,
    limited: bool,
}

/// A port that looks at what it is given.
#[derive(Default)]
struct Wire {
    waiting: VecDeque<(Header, usize)>,
    full: bool,
    refuses: bool,
    sender: Option<Mac>,
    offloads: Offloads,
}

impl Net {
    /// With what a driver agreed on in the bits of one byte.
    fn new(agreed: u8) -> Self {
        let has = |bit: u8| agreed & 1 << bit != 0;
        let offloads = Offloads { checksum: has(0), tso4: has(1), tso6: has(2) };
        let sender = has(4).then_some(SENDER);
        let (mut receiver, mut transmitter) = (Receiver::default(), Transmitter::new(sender));
        receiver.start(offloads, has(3));
        transmitter.start(offloads);
        let port = Wire { sender, offloads, ..Wire::default() };
        Self { receiver, transmitter, port, limited: false }
    }
}

impl Subject for Net {
    const QUEUES: &'static [u16] = &[QUEUE_SIZE; 2];

    fn turn(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        let allow = |_| !self.limited;
        if index == RX_QUEUE {
            self.receiver.process(memory, queue, &mut self.port, allow)
        } else {
            self.transmitter.process(memory, queue, &mut self.port, allow)
        }
    }

    fn host(&mut self, what: u8) {
        match what >> 6 {
            0 if self.port.waiting.len() < MAX_WAITING => {
                let kinds = [GSO_NONE, 1, 3, 4];
                let header = Header {
                    flags: what >> 5,
                    gso_type: kinds[usize::from(what >> 3 & 3)],
                    ..Header::default()
                };
                self.port.waiting.push_back((header, LENGTHS[usize::from(what & 7)]));
            }
            0 => {}
            1 => (self.port.full, self.port.refuses) = (what & 1 != 0, what & 2 != 0),
            2 => self.limited = what & 1 != 0,
            _ => *self = Self::new(what),
        }
    }
}

impl Port for Wire {
    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let Some((header, frame_len)) = self.waiting.pop_front() else {
            return Received::Nothing;
        };
        let len = (HEADER_LEN + frame_len).min(buffer.len());
        buffer[..HEADER_LEN].copy_from_slice(&header.to_bytes(0));
        Received::Packet(len)
    }

    fn send(&mut self, packet: &[u8]) -> Sent {
        let (header, frame) = packet.split_first_chunk().expect("each packet has a header");
        let header = Header::from_bytes(*header);
        assert!((MIN_FRAME_LEN..=MAX_FRAME_LEN).contains(&frame.len()), "{}", frame.len());
        assert!(self.sender.is_none_or(|sender| frame[6..12] == sender.0), "another sender");
        assert_eq!(header.flags & !F_NEEDS_CSUM, 0, "flags that a driver may not set");
        if header.flags != 0 {
            let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
            assert!(self.offloads.checksum && field + 2 <= frame.len(), "a checksum outside");
        }
        let segments = [(1, self.offloads.tso4), (4, self.offloads.tso6)];
        let agreed = segments.contains(&(header.gso_type, true)) && header.gso_size >= MIN_GSO_SIZE;
        assert!(header.gso_type == GSO_NONE || agreed, "segments that were not agreed on");
        match (self.full, self.refuses) {
            (true, _) => Sent::Full,
            (_, true) => Sent::Refused,
            _ => Sent::Done,
        }
    }
}
