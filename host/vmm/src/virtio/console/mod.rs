//! The console device, virtio 1.2 §5.3: one port. What the guest writes goes to a descriptor of the
//! host; what the host writes to another goes to the guest.
//!
//! - [`core`]: both queues, over memory and any reader and writer;
//! - here: what the transport sees, with descriptors.
//!
//! The guest never waits for a host that does not read: what does not fit is dropped and counted.
//! The host waits for a guest that does not: its bytes stay in the pipe.

pub mod core;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};

use self::core::{Numbers, QUEUE_SIZE, RX_QUEUE, TX_QUEUE, receive, transmit};
use super::{ActivateError, Activation, Counters, Kind, read_space};

/// `VIRTIO_CONSOLE_F_SIZE`, virtio 1.2 §5.3.3: columns and rows are in the configuration space.
pub const FEATURE_SIZE: u64 = 1;

/// What a console is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A descriptor to write to.
    pub output: RawFd,
    /// A descriptor to read from: a pipe, a socket or a terminal.
    #[serde(default)]
    pub input: Option<RawFd>,
    /// Of the terminal, if it has one.
    #[serde(default)]
    pub size: Option<Size>,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// See the module.
#[derive(Debug)]
pub struct Device {
    output: File,
    input: Option<File>,
    size: Option<Size>,
    active: Option<Activation>,
    numbers: Numbers,
}

impl Device {
    /// A device that no driver has found. The descriptors are made non-blocking, for all who share
    /// them.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn new(output: OwnedFd, input: Option<OwnedFd>, size: Option<Size>) -> io::Result<Self> {
        let output = non_blocking(output)?;
        let input = input.map(non_blocking).transpose()?;
        Ok(Self { output, input, size, active: None, numbers: Numbers::default() })
    }

    /// The terminal has another size now. Of a console without a terminal, does nothing.
    pub fn resize(&mut self, size: Size) {
        if self.size.is_none_or(|old| old == size) {
            return;
        }
        self.size = Some(size);
        if let Some(Activation { interrupt, .. }) = &self.active {
            interrupt.config_changed();
        }
    }

    fn receive(&mut self) {
        let Some(Activation { memory, queues, interrupt, .. }) = &mut self.active else { return };
        let Some(Some(queue)) = queues.get_mut(RX_QUEUE) else { return };
        if let Some(input) = &mut self.input {
            let passed = receive(queue, memory, &mut self.numbers, input);
            interrupt.settle(RX_QUEUE, &passed);
        }
    }

    fn transmit(&mut self) {
        let Some(Activation { memory, queues, interrupt, .. }) = &mut self.active else { return };
        let Some(Some(queue)) = queues.get_mut(TX_QUEUE) else { return };
        let passed = transmit(queue, memory, &mut self.numbers, &mut self.output);
        interrupt.settle(TX_QUEUE, &passed);
    }

    /// `struct virtio_console_config`, virtio 1.2 §5.3.4: columns, rows, and of multiport nothing.
    fn config_space(&self) -> [u8; 12] {
        let Size { columns, rows } = self.size.unwrap_or(Size { columns: 0, rows: 0 });
        let ([a, b], [c, d]) = (columns.to_le_bytes(), rows.to_le_bytes());
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

fn non_blocking(descriptor: OwnedFd) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(File::from(descriptor))
}

impl super::Device for Device {
    fn kind(&self) -> Kind {
        Kind::Console
    }

    fn features(&self) -> u64 {
        if self.size.is_some() { FEATURE_SIZE } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config_space(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.active = Some(activation);
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
        self.input.iter().map(|input| (input.as_fd(), EpollFlags::EPOLLIN)).collect()
    }

    /// What comes while there is no driver stays in the pipe, and is looked for when there is one.
    fn on_source(&mut self, _: usize, _: EpollFlags) {
        self.receive();
    }

    fn counters(&self) -> Counters {
        self.numbers.counters()
    }
}

#[cfg(test)]
mod tests;
