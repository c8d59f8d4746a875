//! Finds what answers at an address: registers in memory and I/O ports. Knows no device.

/// Registers of a device. Called from every virtual CPU's thread, so with a lock of its own where it
/// needs one. Never blocks for long: the guest's processor waits.
pub trait Registers: Send + Sync {
    /// Reads `data.len()` bytes, 1 to 8, at `offset` from the device's base. What is not there reads
    /// as it does on the device.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes 1 to 8 bytes.
    fn write(&self, offset: u64, data: &[u8]);
}
