//! Finds what answers at an address: registers in memory and I/O ports. Knows no device.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The widest access that a processor makes.
const MAX_ACCESS: usize = 8;

/// Registers of a device. Called from every virtual CPU's thread, so with a lock of its own where
/// it needs one. Never blocks for long: the guest's processor waits.
pub trait Registers: Send + Sync {
    /// Reads `data.len()` bytes, 1 to 8, at `offset` from the device's base. What is not there
    /// reads as it does on the device.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes 1 to 8 bytes.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Two devices want the same address, or one wants none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("place registers at {base:#x}, {len} bytes: the place is taken or does not exist")]
pub struct PlaceError {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

struct Range {
    base: u64,
    /// The last address, so that a range may reach the end of all addresses.
    last: u64,
    registers: Arc<dyn Registers>,
}

/// An address space: memory-mapped registers, or I/O ports. Built before the machine runs, and only
/// read from then on.
#[derive(Default)]
pub struct Bus {
    /// Sorted by address; none overlap.
    ranges: Vec<Range>,
    unknown: AtomicU64,
}

impl Bus {
    /// Puts a device at `base`.
    ///
    /// # Errors
    /// [`PlaceError`]: the bus is as before.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        registers: Arc<dyn Registers>,
    ) -> Result<(), PlaceError> {
        let refused = PlaceError { base, len };
        let last = len.checked_sub(1).and_then(|rest| base.checked_add(rest)).ok_or(refused)?;
        let index = self.ranges.partition_point(|range| range.last < base);
        if self.ranges.get(index).is_some_and(|next| next.base <= last) {
            return Err(refused);
        }
        self.ranges.insert(index, Range { base, last, registers });
        Ok(())
    }

    /// Reads 1 to 8 bytes. Where no device is, every bit is one, as on a bus that nobody drives.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((registers, offset)) => registers.read(offset, data),
            None => {
                data.fill(0xff);
                self.unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Writes 1 to 8 bytes. Where no device is, they are lost.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.find(address, data.len()) {
            Some((registers, offset)) => registers.write(offset, data),
            None => {
                self.unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many accesses met no device.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// The device that has all of an access. One that reaches over its end meets nobody.
    fn find(&self, address: u64, len: usize) -> Option<(&dyn Registers, u64)> {
        if len == 0 || len > MAX_ACCESS {
            return None;
        }
        let last = address.checked_add(u64::try_from(len).ok()? - 1)?;
        let index = self.ranges.partition_point(|range| range.last < address);
        let range = self.ranges.get(index)?;
        let inside = range.base <= address && last <= range.last;
        inside.then(|| (range.registers.as_ref(), address - range.base))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.iter().map(|range| range.base..=range.last);
        f.debug_list().entries(ranges).finish()
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "addresses of the test are small")]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    /// Answers with its offset; remembers what was written.
    #[derive(Default)]
    struct Echo {
        written: Mutex<Vec<(u64, Vec<u8>)>>,
    }

    impl Registers for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            for (byte, at) in data.iter_mut().zip(offset..) {
                *byte = u8::try_from(at & 0xff).unwrap();
            }
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.written.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn bus(ranges: &[(u64, u64)]) -> Bus {
        let mut bus = Bus::default();
        for (base, len) in ranges {
            bus.insert(*base, *len, Arc::new(Echo::default())).unwrap();
        }
        bus
    }

    fn read(bus: &Bus, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0xaa; len];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn an_access_meets_the_device_that_has_its_address() {
        let bus = bus(&[(0x2000, 0x1000), (0x1000, 0x10), (0x3000, 1)]);
        assert_eq!(read(&bus, 0x1000, 1), [0]);
        assert_eq!(read(&bus, 0x100c, 4), [12, 13, 14, 15]);
        assert_eq!(read(&bus, 0x2008, 8), [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(read(&bus, 0x2ffe, 2), [0xfe, 0xff]);
        assert_eq!(read(&bus, 0x3000, 1), [0]);
        assert_eq!(bus.unknown(), 0);
    }

    #[test]
    fn a_write_arrives_with_its_offset_and_its_bytes() {
        let echo = Arc::new(Echo::default());
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x100, Arc::clone(&echo) as Arc<dyn Registers>).unwrap();
        bus.write(0x1050, &[1, 2, 3, 4]);
        bus.write(0x1100, &[5]);
        assert_eq!(*echo.written.lock().unwrap(), [(0x50, vec![1, 2, 3, 4])]);
        assert_eq!(bus.unknown(), 1);
    }

    #[test]
    fn where_nobody_is_all_bits_are_one_and_it_is_counted() {
        let bus = bus(&[(0x1000, 0x10)]);
        for (address, len) in [(0, 1), (0xfff, 1), (0x1010, 4), (u64::MAX, 1), (u64::MAX, 8)] {
            assert_eq!(read(&bus, address, len), vec![0xff; len], "{address:#x}");
        }
        assert_eq!(bus.unknown(), 5);
    }

    #[test]
    fn an_access_across_the_edge_of_a_device_meets_nobody() {
        let bus = bus(&[(0x1000, 0x10), (0x1010, 0x10)]);
        for (address, len) in [(0xfff, 2), (0x100e, 4), (0x101f, 2)] {
            assert_eq!(read(&bus, address, len), vec![0xff; len], "{address:#x}");
        }
    }

    #[test]
    fn no_access_is_longer_than_eight_bytes_or_empty() {
        let bus = bus(&[(0, u64::MAX)]);
        assert_eq!(read(&bus, 0, 9), [0xff; 9]);
        assert!(read(&bus, 0, 0).is_empty());
        assert_eq!(bus.unknown(), 2);
    }

    #[test]
    fn two_devices_at_one_address_are_refused() {
        let mut bus = bus(&[(0x1000, 0x10), (0x2000, 0x10)]);
        for (base, len) in [(0x1000, 0x10), (0xfff, 2), (0x100f, 1), (0x800, 0x10000), (0, 0)] {
            let refused = bus.insert(base, len, Arc::new(Echo::default()));
            assert_eq!(refused, Err(PlaceError { base, len }));
        }
        assert_eq!(
            bus.insert(u64::MAX, 2, Arc::new(Echo::default())),
            Err(PlaceError { base: u64::MAX, len: 2 })
        );
        bus.insert(u64::MAX, 1, Arc::new(Echo::default())).unwrap();
        bus.insert(0x1010, 0xff0, Arc::new(Echo::default())).unwrap();
        assert_eq!(read(&bus, u64::MAX, 1), [0]);
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_an_access_meets_the_one_that_has_it(
            ranges in prop::collection::vec((0_u64..300, 0_u64..40), 0..20),
            accesses in prop::collection::vec((0_u64..350, 1_usize..=8), 0..50),
        ) {
            let mut bus = Bus::default();
            let mut placed: Vec<(u64, u64)> = Vec::new();
            for (base, len) in ranges {
                let free = placed.iter().all(|(b, l)| base + len <= *b || b + l <= base);
                let expected = len > 0 && free;
                let done = bus.insert(base, len, Arc::new(Echo::default())).is_ok();
                prop_assert_eq!(done, expected);
                if done {
                    placed.push((base, len));
                }
            }
            for (address, len) in accesses {
                let end = address + len as u64;
                let owner = placed.iter().find(|(b, l)| *b <= address && end <= b + l);
                let expected: Vec<u8> = match owner {
                    Some((base, _)) => (address - base..).map(|at| at as u8).take(len).collect(),
                    None => vec![0xff; len],
                };
                prop_assert_eq!(read(&bus, address, len), expected);
            }
        }
    }
}
