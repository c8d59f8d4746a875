//! The cores of devices, each as a subject of a hostile guest. What they stand on is small and has no
//! descriptor: a source that says one byte, a port of equal packets, a disk without contents.

use std::io::{self, Read, Write};

use virtio_queue::Queue;
use vm_memory::{GuestMemory, Permissions};

use super::guest::{Subject, play};
use crate::Memory;
use crate::virtio::blk::core::{Counts, Disk, Executor, Pending};
use crate::virtio::blk::request::{Answer, Operation, Segment, Shape};
use crate::virtio::mem::blocks::Blocks;
use crate::virtio::net::core::receive::Receiver;
use crate::virtio::net::core::transmit::Transmitter;
use crate::virtio::net::core::{MAX_PACKET_LEN, Offloads, Port, Received, Sent};
use crate::virtio::queue::{Outcome, QueueError};
use crate::virtio::{balloon, blk, console, mem, net, rng};

/// The entropy device.
pub fn rng(bytes: &[u8]) {
    play(bytes, &mut Rng(rng::core::Numbers::default()));
}

/// The console.
pub fn console(bytes: &[u8]) {
    play(bytes, &mut Console(console::core::Numbers::default()));
}

/// The block device.
pub fn blk(bytes: &[u8]) {
    let shape = Shape { sectors: SECTORS, read_only: bytes.len() % 2 == 1 };
    let disk = Disk { shape, id: [b'i'; 20], disposable: bytes.len() % 4 > 1 };
    let started = Started { shape, room: 8, requests: Vec::new() };
    play(bytes, &mut Blk { disk, counts: Counts::default(), started });
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

/// The balloon.
pub fn balloon(bytes: &[u8]) {
    play(bytes, &mut Balloon(balloon::core::Numbers::default()));
}

/// The device of memory that comes and goes.
pub fn mem(bytes: &[u8]) {
    // The upper half of the guest's memory.
    let mut blocks = Blocks::new(8 << 20, 8 << 20);
    blocks.request(4 << 20);
    play(bytes, &mut Mem(blocks, mem::core::Numbers::default()));
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

/// Of the disk.
const SECTORS: u64 = 64;

struct Blk {
    disk: Disk,
    counts: Counts,
    started: Started,
}

/// Requests in flight, which are checked and otherwise forgotten.
struct Started {
    shape: Shape,
    room: usize,
    requests: Vec<(Pending, Operation)>,
}

impl Executor for Started {
    fn has_room(&mut self) -> bool {
        self.requests.len() < self.room
    }

    fn admits(&mut self, bytes: u64) -> bool {
        bytes < 1 << 30
    }

    fn start(&mut self, pending: Pending, operation: Operation) {
        let capacity = self.shape.sectors * 512;
        let changes = !matches!(operation, Operation::Read { .. } | Operation::Flush);
        assert!(!(changes && self.shape.read_only), "nothing is changed on a disk to read");
        match &operation {
            Operation::Read { offset, .. } | Operation::Write { offset, .. } => {
                assert!(offset.checked_add(operation.bytes()).is_some_and(|end| end <= capacity));
            }
            Operation::Discard { ranges } | Operation::WriteZeroes { ranges } => {
                let fits = |range: &blk::request::Range| range.offset + range.len <= capacity;
                assert!(ranges.iter().all(fits), "ranges are on the disk");
            }
            Operation::Flush => {}
            Operation::GetId { .. } => panic!("the core answers by itself"),
        }
        self.requests.push((pending, operation));
    }
}

fn is_memory(memory: &Memory, segment: &Segment) -> bool {
    let len = usize::try_from(segment.len);
    len.is_ok_and(|len| memory.check_range(segment.addr, len, Permissions::ReadWrite))
}

impl Subject for Blk {
    const QUEUES: &'static [u16] = &[16];

    fn turn(
        &mut self,
        _: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        let Self { disk, counts, started } = self;
        let taken = blk::core::take(queue, memory, disk, counts, started)?;
        if started.room % 2 == 1 {
            return Ok(taken);
        }
        for (_, operation) in &started.requests {
            if let Operation::Read { data, .. } | Operation::Write { data, .. } = operation {
                assert!(data.iter().all(|segment| is_memory(memory, segment)));
            }
        }
        let done = started.requests.drain(..).map(|(pending, operation)| {
            let fails = matches!(operation, Operation::Flush);
            (pending, if fails { Answer::IoError } else { Answer::Done })
        });
        blk::core::complete(queue, memory, counts, done)?;
        Ok(taken)
    }

    /// With an odd number, requests stay in flight.
    fn host(&mut self, what: u8) {
        self.started.room = usize::from(what % 16);
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

struct Balloon(balloon::core::Numbers);

impl Subject for Balloon {
    const QUEUES: &'static [u16] = &[16, 16, 16];

    fn turn(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        match index {
            0 => balloon::core::inflate(queue, memory, &mut self.0),
            1 => balloon::core::deflate(queue, memory, &mut self.0),
            _ => balloon::core::report(queue, memory, &mut self.0),
        }
    }
}

struct Mem(Blocks, mem::core::Numbers);

impl Subject for Mem {
    const QUEUES: &'static [u16] = &[16];

    fn turn(
        &mut self,
        _: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        let before = self.0.plugged_len();
        let outcome = mem::core::process(queue, memory, &mut self.0, &mut self.1)?;
        let plugged = self.0.plugged_len();
        assert!(plugged <= before.max(self.0.requested_len()), "no more than the host wants");
        Ok(outcome)
    }

    fn host(&mut self, what: u8) {
        self.0.request(u64::from(what % 5) << 21);
    }
}
