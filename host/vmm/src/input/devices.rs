//! Entropy and console. What they stand on is small and has no descriptor: a source that says one
//! byte.

use std::io::{self, Read, Write};

use virtio_queue::Queue;

use super::guest::{Subject, play};
use crate::Memory;
use crate::virtio::queue::{Outcome, QueueError};
use crate::virtio::{console, rng};

/// The entropy device.
pub fn rng(bytes: &[u8]) {
    play(bytes, &mut Rng(rng::core::Numbers::default()));
}

/// The console.
pub fn console(bytes: &[u8]) {
    play(bytes, &mut Console(console::core::Numbers::default()));
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
