//! The doors through which a guest's bytes come in: for fuzzers, and for the tests that replay what
//! those have found. Bytes spell out what a hostile guest does; whatever they are, each function
//! returns, and device and transport keep their promises.
//!
//! - [`guest`]: rings and memory, for any device core;
//! - [`block`]: a disk without a file;
//! - [`devices`]: entropy and console;
//! - [`memory`]: the balloon, virtio-mem, and kernels' files;
//! - [`net`]: what may leave the network device;
//! - [`registers`]: the transport;
//! - [`vsock`]: packets, without rings.
//!
//! A core becomes a target with an implementation of [`Subject`], a function here, a file in
//! `tests/fuzz/targets` and an entry in its `Cargo.toml`, a name in `scripts/fuzz`, a folder in
//! `tests/fuzz/corpus`, and a line in the tests below.

pub mod block;
pub mod devices;
pub mod guest;
pub mod memory;
pub mod net;
pub mod registers;
pub mod script;
pub mod vsock;

use std::io::{self, Read};

use virtio_queue::Queue;

use self::guest::{Subject, play};
use crate::Memory;
use crate::virtio::queue::{self, Limits, Outcome, QueueError, Request, Served};

pub use self::block::block;
pub use self::devices::{console, rng};
pub use self::memory::{balloon, kernel, mem};
pub use self::net::net;
pub use self::registers::registers;
pub use self::vsock::{packets as vsock_packets, queues as vsock_queues};

/// Chains, and their bytes.
pub fn queue(bytes: &[u8]) {
    play(bytes, &mut Mirror);
}

/// Writes what it reads back into the same chain.
struct Mirror;

impl Subject for Mirror {
    const QUEUES: &'static [u16] = &[16];

    fn turn(
        &mut self,
        _: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        let limits = Limits { descriptors: 12, readable: 4096, writable: 8192 };
        queue::pass(queue, memory, |chain| {
            let Ok(Request { mut reader, mut writer, .. }) = Request::split(chain, memory, limits)
            else {
                return Served::Used(0);
            };
            let (read, room) = (reader.available_bytes(), writer.available_bytes());
            assert!(read <= 4096 && room <= 8192, "limits hold");
            let copied = io::copy(&mut (&mut reader).take(room as u64), &mut writer);
            assert_eq!(copied.ok(), Some(read.min(room) as u64), "all that fits is copied");
            assert_eq!(reader.available_bytes(), read - read.min(room));
            Served::Used(writer.written())
        })
    }
}

#[cfg(test)]
mod tests;
