//! How much of the hot-plug region is there: whole chunks, from its start on. What is not there
//! takes nothing of the host, whatever the guest does.
//!
//! A chunk is a mapping, and for the guest's processors a slot of KVM. Here it comes and goes for
//! the devices; who changes the size tells KVM and whoever else has guest memory:
//!
//! ```text
//! more: KVM, devices, other processes, and then the guest may plug
//! less: devices, KVM, other processes, and then the pages go back to the host
//! ```

use std::io;
use std::ops::Range;

use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use super::{Memory, Region, punch};
use crate::layout::HOTPLUG_ALIGN;

/// The most chunks: KVM before 5.12 has 509 slots, and each takes a while to come and go.
const MAX_CHUNKS: u64 = 64;

/// The hot-plug region. A clone is another handle on it.
#[derive(Debug, Clone)]
pub struct Hotplug {
    region: Region,
    chunk_len: u64,
    memory: Memory,
}

/// Bytes of a chunk of a region of `len` bytes: 128 MiB up to 8 GiB.
pub(super) fn chunk_len(len: u64) -> u64 {
    len.div_ceil(MAX_CHUNKS).next_power_of_two().max(HOTPLUG_ALIGN)
}

/// The chunks of a region, of which the last may be shorter.
pub(super) fn chunks(region: Region) -> impl Iterator<Item = Region> {
    let chunk_len = chunk_len(region.len);
    (0..region.len.div_ceil(chunk_len)).map(move |index| {
        let offset = index * chunk_len;
        Region {
            guest_addr: region.guest_addr + offset,
            len: chunk_len.min(region.len - offset),
            file_offset: region.file_offset + offset,
            hotplug: true,
        }
    })
}

impl Hotplug {
    pub(super) fn new(region: Region, memory: Memory) -> Self {
        Self { region, chunk_len: chunk_len(region.len), memory }
    }

    /// Where all of it is.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The memory that it is a part of.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Bytes that are there.
    #[must_use]
    pub fn there_len(&self) -> u64 {
        self.memory.end().saturating_sub(self.region.guest_addr).min(self.region.len)
    }

    /// The whole chunks that `needed` bytes from the start on lie in.
    #[must_use]
    pub fn whole_chunks(&self, needed: u64) -> u64 {
        needed.min(self.region.len).next_multiple_of(self.chunk_len).min(self.region.len)
    }

    /// So many bytes are there, which are whole chunks: for this process's devices.
    pub fn set_there_len(&self, len: u64) {
        self.memory.set_end(self.region.guest_addr + len);
    }

    /// The chunks that begin in a range of offsets: the place of each among [`Memory::regions`],
    /// and where it ends.
    pub fn chunks_in(&self, range: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
        self.mappings(range).map(|(index, offset, mapping)| (index, offset + mapping.len()))
    }

    /// Gives the pages of the chunks that begin in a range of offsets back to the host.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.mappings(range)
            .try_for_each(|(_, _, mapping)| punch(mapping, MemoryRegionAddress(0), mapping.len()))
    }

    fn mappings(&self, range: Range<u64>) -> impl Iterator<Item = (usize, u64, &GuestRegionMmap)> {
        let start = self.region.guest_addr;
        self.memory.regions().enumerate().filter_map(move |(index, mapping)| {
            let offset = mapping.start_addr().raw_value().checked_sub(start)?;
            range.contains(&offset).then_some((index, offset, mapping))
        })
    }
}
