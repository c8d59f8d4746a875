//! Which memory there is at the start, as both boot protocols say it: the numbers of E820 of the
//! ACPI Specification 6.5 §15. Memory that is plugged later is not in it (virtio 1.2 §5.15.2).

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::Memory;
use crate::layout::{HIGH_MEMORY, MP_TABLE};
use crate::memory;

/// AddressRangeMemory.
pub const RAM: u32 = 1;
/// AddressRangeReserved.
pub const RESERVED: u32 = 2;
/// The end of base memory, of which the MP table has the last KiB: video memory begins.
const BASE_MEMORY_END: u64 = 0xa_0000;

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub addr: u64,
    /// In bytes, not 0.
    pub len: u64,
    /// [`RAM`] or [`RESERVED`].
    pub kind: u32,
}

/// The memory of a machine, from the lowest address up: at most 4 entries.
#[derive(Debug, PartialEq, Eq)]
pub struct MemoryMap {
    ranges: Vec<Range>,
    low_end: u64,
}

impl MemoryMap {
    /// The map of `memory`.
    #[must_use]
    pub fn of(memory: &Memory) -> Self {
        let mut ranges = vec![
            Range { addr: 0, len: MP_TABLE, kind: RAM },
            Range { addr: MP_TABLE, len: BASE_MEMORY_END - MP_TABLE, kind: RESERVED },
        ];
        let mut low_end = HIGH_MEMORY;
        for region in memory.iter().filter(|region| memory::is_boot_memory(region)) {
            let start = region.start_addr().raw_value();
            let end = start.saturating_add(region.len());
            if start == 0 {
                low_end = end.max(HIGH_MEMORY);
            }
            let addr = start.max(HIGH_MEMORY);
            if end > addr {
                ranges.push(Range { addr, len: end - addr, kind: RAM });
            }
        }
        Self { ranges, low_end }
    }

    /// Its entries.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The first address behind the memory below the hole.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        self.low_end
    }
}
