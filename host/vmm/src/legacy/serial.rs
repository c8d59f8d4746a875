//! The serial port: a 16550 that is always ready to send and never receives.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::timerfd::TimerFd;
use vm_superio::Trigger;
use vm_superio::serial::NoEvents;

use super::sink::Sink;
use crate::bus::Registers;

/// The interrupt line, as an event that KVM turns into one.
#[derive(Clone)]
struct Line(Arc<EventFd>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        // EAGAIN: as many as fit already wait, and one is enough.
        let _ = self.0.write(1);
        Ok(())
    }
}

type Port = vm_superio::Serial<Line, NoEvents, Sink>;

/// See the module.
pub struct Serial {
    port: Mutex<Port>,
    line: Line,
    lost: Arc<AtomicU64>,
    timer: Arc<TimerFd>,
}

impl Serial {
    /// A port that sends to `sink`.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new(sink: Sink) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let line = Line(Arc::new(EventFd::from_flags(flags)?));
        let (lost, timer) = (sink.lost(), sink.timer());
        let port = Mutex::new(vm_superio::Serial::new(line.clone(), sink));
        Ok(Self { port, line, lost, timer })
    }

    /// Its interrupt.
    pub fn interrupt(&self) -> BorrowedFd<'_> {
        self.line.0.as_fd()
    }

    /// Readable when [`Self::settle`] is due.
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// What waits for more to go with goes now.
    pub fn settle(&self) {
        self.lock().writer_mut().settle();
    }

    /// The same, and nothing more is expected.
    pub fn pass_on(&self) {
        self.lock().writer_mut().pass_on();
    }

    fn lock(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the guest sent and nobody got.
    pub fn lost_bytes(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The registers are bytes: a wider access is one of the registers beside each other.
impl Registers for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut port = self.lock();
        for (byte, register) in data.iter_mut().zip(offset..) {
            *byte = u8::try_from(register).map_or(0xff, |register| port.read(register));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut port = self.lock();
        for (byte, register) in data.iter().zip(offset..) {
            if let Ok(register) = u8::try_from(register) {
                // It only fails when looped back bytes find no room: they are lost as on the
                // device.
                let _ = port.write(register, *byte);
            }
        }
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").field("lost", &self.lost_bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    /// Transmitter holding register.
    const DATA: u64 = 0;
    /// Interrupt enable register.
    const INTERRUPT_ENABLE: u64 = 1;
    /// Line status register: the transmitter is empty in bits 5 and 6.
    const LINE_STATUS: u64 = 5;

    fn port() -> (Serial, OwnedFd) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        (Serial::new(Sink::new(Some(writer)).unwrap()).unwrap(), reader)
    }

    fn status(port: &Serial) -> u8 {
        let mut data = [0];
        port.read(LINE_STATUS, &mut data);
        data[0]
    }

    #[test]
    fn what_the_guest_sends_arrives() {
        let (port, reader) = port();
        for byte in b"hello\n" {
            port.write(DATA, &[*byte]);
        }
        drop(port);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }

    #[test]
    fn a_full_pipe_loses_bytes_counts_them_and_stays_ready() {
        let (port, reader) = port();
        let sent = 200_000;
        for _ in 0..sent {
            port.write(DATA, b"x");
        }
        let lost = port.lost_bytes();
        assert!(lost > 0 && lost < sent, "{lost}");
        assert_eq!(status(&port), 0x60);

        // A reader makes room again, and nothing is in the pipe but what was not lost.
        let mut some = vec![0; 4096];
        File::from(reader.try_clone().unwrap()).read_exact(&mut some).unwrap();
        port.write(DATA, b"y");
        assert_eq!(port.lost_bytes(), lost);
        drop(port);
        let mut rest = Vec::new();
        File::from(reader).read_to_end(&mut rest).unwrap();
        assert_eq!((some.len() + rest.len()) as u64, sent - lost + 1);
        assert_eq!(rest.last(), Some(&b'y'));
    }

    #[test]
    fn a_reader_that_is_gone_harms_nobody() {
        let (port, reader) = port();
        drop(reader);
        port.write(DATA, b"x");
        assert_eq!(port.lost_bytes(), 1);
        let without = Serial::new(Sink::new(None).unwrap()).unwrap();
        without.write(DATA, b"x");
        assert_eq!(without.lost_bytes(), 1);
    }

    #[test]
    fn an_empty_transmitter_interrupts_where_the_guest_wants_it() {
        let (port, _reader) = port();
        port.write(DATA, b"x");
        assert!(port.line.0.read().is_err(), "not asked for");
        port.write(INTERRUPT_ENABLE, &[2]);
        port.write(DATA, b"x");
        assert!(port.line.0.read().is_ok());
    }

    #[test]
    fn bytes_looped_back_without_end_are_bounded() {
        let (port, _reader) = port();
        let (modem_control, loop_back) = (4, 0x10);
        port.write(modem_control, &[loop_back]);
        for _ in 0..10_000 {
            port.write(DATA, b"x");
        }
        assert!(port.port.lock().unwrap().state().in_buffer.len() <= 64);
    }
}
