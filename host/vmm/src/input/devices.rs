//! Entropy, console and network. What they stand on is small and has no descriptor: a source that says
//! one byte, a port of equal packets.

use std::io::{self, Read, Write};

use virtio_queue::Queue;

use super::guest::{Subject, play};
use crate::Memory;
use crate::virtio::net::core::receive::Receiver;
use crate::virtio::net::core::transmit::Transmitter;
use crate::virtio::net::core::{MAX_PACKET_LEN, Offloads, Port, Received, Sent};
use crate::virtio::queue::{Outcome, QueueError};
use crate::virtio::{console, net, rng};

/// The entropy device.
pub fn rng(bytes: &[u8]) {
    play(bytes, &mut Rng(rng::core::Numbers::default()));
}

/// The console.
pub fn console(bytes: &[u8]) {
    play(bytes, &mut Console(console::core::Numbers::default()));
}

/// The network device.
pub fn net(bytes: &[u8]) {
    let all = Offloads { checksum: true, tso4: true, tso6: true };
    let mut subject = Net {
        receiver: Receiver::default(),
        transmitter: Transmitter::new(None),
        port: Packets { waiting: 4, len: 100 },
    };
    subject.receiver.start(all, bytes.len() % 2 == 1);
    subject.transmitter.start(all);
    play(bytes, &mut subject);
}

struct Rng(rng::core::Numbers);

impl Subject for Rng {
    const QUEUES: &'static [u16] = &[rng::core::QUEUE_SIZE];

    fn turn(
        &mut self,
        _: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        rng::core::process(queue, memory, &mut self.0, |bytes| {
            bytes.fill(0x5a);
            Ok(())
        })
    }
}

struct Console(console::core::Numbers);

impl Subject for Console {
    const QUEUES: &'static [u16] = &[console::core::QUEUE_SIZE; 2];

    fn turn(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        if index == console::core::RX_QUEUE {
            let mut input = io::repeat(b'x').take(100_000);
            return console::core::receive(queue, memory, &mut self.0, &mut input);
        }
        // Takes some and then no more.
        let mut room = [0; 10_000];
        let mut output: Box<dyn Write> = Box::new(&mut room[..]);
        console::core::transmit(queue, memory, &mut self.0, &mut output)
    }
}

struct Net {
    receiver: Receiver,
    transmitter: Transmitter,
    port: Packets,
}

/// Equal packets, as many as there are, and a place to send to that may be full.
struct Packets {
    waiting: u8,
    len: usize,
}

impl Port for Packets {
    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let Some(left) = self.waiting.checked_sub(1) else { return Received::Nothing };
        self.waiting = left;
        let len = self.len.min(buffer.len());
        buffer[..len].fill(0);
        Received::Packet(len)
    }

    fn send(&mut self, packet: &[u8]) -> Sent {
        assert!(packet.len() <= MAX_PACKET_LEN, "packets are bounded");
        match self.len % 8 {
            0 => Sent::Full,
            1 => Sent::Refused,
            _ => Sent::Done,
        }
    }
}

impl Subject for Net {
    const QUEUES: &'static [u16] = &[16, 16];

    fn turn(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        let allow = |bytes| bytes < 50_000;
        match index {
            net::core::RX_QUEUE => self.receiver.process(memory, queue, &mut self.port, allow),
            _ => self.transmitter.process(memory, queue, &mut self.port, allow),
        }
    }

    fn host(&mut self, what: u8) {
        self.port.waiting = self.port.waiting.saturating_add(what % 8);
        self.port.len = usize::from(what) * usize::from(what);
    }
}
