//! Guest memory as every room has it: by the guest's addresses, and only what is there now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::mmap::FromRangesError;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// Guest memory. A clone is another handle on the same mappings.
///
/// Chunks of the hot-plug region come and go while the machine runs ([`super::Hotplug`]); all else
/// is always there. What is not there is no memory: nothing is found at its addresses. It stays
/// mapped, so a device that is at work on it when it goes harms nobody.
#[derive(Debug, Clone)]
pub struct Memory {
    regions: GuestMemoryMmap,
    /// No region that begins here or above is there. The hot-plug region is above all others.
    end: Arc<AtomicU64>,
}

impl Memory {
    /// `regions`, of which those that begin at `end` or above are not there.
    pub(super) fn up_to(regions: GuestMemoryMmap, end: u64) -> Self {
        Self { regions, end: Arc::new(AtomicU64::new(end)) }
    }

    /// Memory without a file, all of it there: for trials.
    ///
    /// # Errors
    /// Of mmap(2), and ranges that are none.
    pub fn from_ranges(ranges: &[(GuestAddress, usize)]) -> Result<Self, FromRangesError> {
        GuestMemoryMmap::from_ranges(ranges).map(Self::from)
    }

    /// All regions, those that are not there among them, from the lowest address up.
    pub fn regions(&self) -> impl Iterator<Item = &GuestRegionMmap> {
        self.regions.iter()
    }

    /// Whether one of [`Self::regions`] is there.
    #[must_use]
    pub fn is_there(&self, region: &GuestRegionMmap) -> bool {
        region.start_addr().raw_value() < self.end()
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }
}

impl From<GuestMemoryMmap> for Memory {
    fn from(regions: GuestMemoryMmap) -> Self {
        Self::up_to(regions, u64::MAX)
    }
}

impl Default for Memory {
    fn default() -> Self {
        GuestMemoryMmap::default().into()
    }
}

impl GuestMemoryBackend for Memory {
    type R = GuestRegionMmap;

    // Each region is there or not as a whole, so what is found stays true of the region even if it
    // goes at this moment.
    fn find_region(&self, addr: GuestAddress) -> Option<&GuestRegionMmap> {
        self.regions.find_region(addr).filter(|region| self.is_there(region))
    }

    fn iter(&self) -> impl Iterator<Item = &GuestRegionMmap> {
        let end = self.end();
        self.regions.iter().take_while(move |region| region.start_addr().raw_value() < end)
    }
}
