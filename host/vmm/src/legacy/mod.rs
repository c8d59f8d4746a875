//! What is left of the PC: a serial port that the guest writes its console to, and the ways to
//! reset. The timer, its speaker port and the interrupt controllers are KVM's.

mod i8042;
mod serial;
mod sink;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use i8042::{I8042, SystemControl};
use serial::Serial;
use sink::Sink;

use crate::bus::{Bus, PlaceError, Registers};
use crate::layout;

/// Registers of a 16550.
const SERIAL_LEN: u64 = 8;
/// Data port, command port, and what lies between them.
const I8042_LEN: u64 = 5;
/// System control port A: another way to reset.
const SYSTEM_CONTROL_PORT: u64 = 0x92;
/// Diagnostic codes at boot; kernels write there to pass the time.
const DIAGNOSTIC_PORT: u64 = 0x80;

/// The guest asked for a reset. Set by a device within a port write, so that the virtual CPU that
/// wrote can look before it goes on.
#[derive(Debug, Clone, Default)]
pub struct Reset(Arc<AtomicBool>);

impl Reset {
    fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A port that takes everything and says nothing.
struct Silent;

impl Registers for Silent {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

/// The devices at I/O ports.
#[derive(Debug, Clone)]
pub struct Legacy {
    serial: Arc<Serial>,
    reset: Reset,
}

impl Legacy {
    /// The devices; what the guest writes to its serial port goes to `console`, the writing end of
    /// a pipe, as long as there is room in it, and nowhere without one.
    ///
    /// # Errors
    /// Those of eventfd(2) and timerfd_create(2), and of fcntl(2) on the pipe.
    pub fn new(console: Option<OwnedFd>) -> io::Result<Self> {
        let serial = Arc::new(Serial::new(Sink::new(console)?)?);
        Ok(Self { serial, reset: Reset::default() })
    }

    /// Puts the devices at their ports.
    ///
    /// # Errors
    /// [`PlaceError`]: another device is there.
    pub fn place(&self, ports: &mut Bus) -> Result<(), PlaceError> {
        let serial = Arc::clone(&self.serial);
        ports.insert(layout::SERIAL_PORT.into(), SERIAL_LEN, serial)?;
        let controller = Arc::new(I8042::new(self.reset.clone()));
        ports.insert(layout::I8042_PORT.into(), I8042_LEN, controller)?;
        let control = Arc::new(SystemControl::new(self.reset.clone()));
        ports.insert(SYSTEM_CONTROL_PORT, 1, control)?;
        ports.insert(DIAGNOSTIC_PORT, 1, Arc::new(Silent))
    }

    /// The serial port's interrupt, for [`layout::SERIAL_GSI`].
    #[must_use]
    pub fn serial_interrupt(&self) -> BorrowedFd<'_> {
        self.serial.interrupt()
    }

    /// Readable when [`Self::settle_console`] is due.
    #[must_use]
    pub fn console_timer(&self) -> BorrowedFd<'_> {
        self.serial.timer()
    }

    /// Passes on what the guest sent and what waits for more to go with.
    pub fn settle_console(&self) {
        self.serial.settle();
    }

    /// Passes on the guest's last words.
    pub fn end_console(&self) {
        self.serial.pass_on();
    }

    /// Whether the guest asked for a reset.
    #[must_use]
    pub fn reset(&self) -> &Reset {
        &self.reset
    }

    /// Bytes of the console that met a full pipe or none.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        self.serial.lost_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Access {
        Read(u16, usize),
        Write(u16, Vec<u8>),
    }

    fn access() -> impl Strategy<Value = Access> {
        let port = prop_oneof![0x3f0_u16..0x404, 0x5e_u16..0x68, 0x7f_u16..0x94];
        prop_oneof![
            (port.clone(), 1_usize..=8).prop_map(|(port, len)| Access::Read(port, len)),
            (port, prop::collection::vec(any::<u8>(), 1..=8))
                .prop_map(|(port, data)| Access::Write(port, data)),
        ]
    }

    proptest! {
        #[test]
        fn ports_survive_any_access(accesses in prop::collection::vec(access(), 0..200)) {
            let legacy = Legacy::new(None).unwrap();
            let mut ports = Bus::default();
            legacy.place(&mut ports).unwrap();
            for access in accesses {
                match access {
                    Access::Read(port, len) => ports.read(port.into(), &mut vec![0; len]),
                    Access::Write(port, data) => ports.write(port.into(), &data),
                }
            }
        }
    }

    #[test]
    fn every_device_is_at_its_port() {
        let legacy = Legacy::new(None).unwrap();
        let mut ports = Bus::default();
        legacy.place(&mut ports).unwrap();
        for port in [0x3f8, 0x3ff, 0x60, 0x64, 0x80, 0x92] {
            ports.read(port, &mut [0]);
        }
        assert_eq!(ports.unknown(), 0);
        ports.write(0x3f8, b"x");
        assert_eq!(legacy.lost_bytes(), 1);
        assert!(!legacy.reset().is_asked());
        ports.write(0x64, &[0xfe]);
        assert!(legacy.reset().is_asked());
    }
}
