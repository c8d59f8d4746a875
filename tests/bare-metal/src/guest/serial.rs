//! Lines on the serial port.

use core::fmt;

use super::gate;

/// COM1.
pub const PORT: u16 = 0x3f8;

/// The port as something to write to.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            gate::out8(PORT, byte);
        }
        Ok(())
    }
}

/// Writes a line.
macro_rules! say {
    () => { $crate::guest::serial::line(format_args!("")) };
    ($($part:tt)*) => { $crate::guest::serial::line(format_args!($($part)*)) };
}
pub(crate) use say;

/// What [`say`] calls.
pub fn line(text: fmt::Arguments<'_>) {
    // The port takes everything.
    let _ = fmt::write(&mut Serial, text);
    gate::out8(PORT, b'\n');
}
