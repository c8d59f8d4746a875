//! The guest's memory as the front end shares it, and the front end's own addresses in it.
//! Knows no queues.

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::Memory;

/// Why a memory table was refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Regions and descriptors do not pair.
    #[error("share guest memory: {regions} regions come with {files} descriptors")]
    Unpaired {
        /// Regions in the table.
        regions: usize,
        /// Descriptors beside it.
        files: usize,
    },
    /// The file could shrink under us, and each access would then be a SIGBUS.
    #[error("share guest memory: the file at {guest_addr:#x} is not sealed against shrinking")]
    NotSealed {
        /// Guest address of the region.
        guest_addr: u64,
    },
    /// The file cannot be mapped, or is shorter than the region.
    #[error("map guest memory at {guest_addr:#x}")]
    Map {
        /// Guest address of the region.
        guest_addr: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Regions overlap.
    #[error("order the regions of guest memory")]
    Layout(#[source] vm_memory::GuestRegionCollectionError),
}

#[derive(Debug, Clone, Copy)]
struct Window {
    front_end_addr: u64,
    guest_addr: u64,
    len: u64,
}

/// Guest memory, mapped.
#[derive(Debug, Default)]
pub struct SharedMemory {
    guest: Memory,
    windows: Vec<Window>,
}

impl SharedMemory {
    /// Maps the regions of `table`, whose files are sealed memfds.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn map(table: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Self, MemoryError> {
        if table.len() != files.len() {
            return Err(MemoryError::Unpaired { regions: table.len(), files: files.len() });
        }
        let mut windows = Vec::with_capacity(table.len());
        let mut regions = Vec::with_capacity(table.len());
        for (region, file) in table.iter().zip(files) {
            regions.push(map_region(region, file)?);
            windows.push(Window {
                front_end_addr: region.user_addr,
                guest_addr: region.guest_phys_addr,
                len: region.memory_size,
            });
        }
        let guest = GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Layout)?;
        Ok(Self { guest: guest.into(), windows })
    }

    /// The memory by guest addresses.
    #[must_use]
    pub fn guest(&self) -> &Memory {
        &self.guest
    }

    /// The guest address of an address of the front end, `None` outside of guest memory.
    #[must_use]
    pub fn guest_addr(&self, front_end_addr: u64) -> Option<GuestAddress> {
        self.windows.iter().find_map(|window| {
            let offset = front_end_addr.checked_sub(window.front_end_addr)?;
            let inside = offset < window.len;
            inside.then(|| window.guest_addr.checked_add(offset).map(GuestAddress)).flatten()
        })
    }
}

fn map_region(region: &VhostUserMemoryRegion, file: File) -> Result<GuestRegionMmap, MemoryError> {
    let guest_addr = region.guest_phys_addr;
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    if !seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_SHRINK)) {
        return Err(MemoryError::NotSealed { guest_addr });
    }
    let map_error = |source| MemoryError::Map { guest_addr, source };
    // Beyond the end of the file each access would be a SIGBUS.
    let file_len = file.metadata().map_err(map_error)?.len();
    if region.mmap_offset.checked_add(region.memory_size).is_none_or(|end| end > file_len) {
        return Err(map_error(io::ErrorKind::UnexpectedEof.into()));
    }
    let mapping = region.mmap_region(file).map_err(|error| map_error(io::Error::other(error)))?;
    GuestRegionMmap::new(mapping, GuestAddress(guest_addr))
        .ok_or_else(|| map_error(io::ErrorKind::InvalidInput.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    pub(in crate::vhost_user) fn memfd(len: u64, seals: SealFlag) -> File {
        let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
        let file = File::from(memfd_create("guest", flags).unwrap());
        file.set_len(len).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        file
    }

    const SHRINK: SealFlag = SealFlag::F_SEAL_SHRINK;

    #[test]
    fn addresses_of_the_front_end_are_translated_inside_of_regions_only() {
        let table = [
            VhostUserMemoryRegion::new(0, 0x2000, 0x7000_0000, 0),
            VhostUserMemoryRegion::new(0x10_0000, 0x1000, u64::MAX - 0x1000, 0),
        ];
        let files = vec![memfd(0x2000, SHRINK), memfd(0x1000, SHRINK)];
        let memory = SharedMemory::map(&table, files).unwrap();
        assert_eq!(memory.guest_addr(0x7000_1fff), Some(GuestAddress(0x1fff)));
        assert_eq!(memory.guest_addr(u64::MAX - 1), Some(GuestAddress(0x10_0fff)));
        for outside in [0, 0x6fff_ffff, 0x7000_2000, u64::MAX] {
            assert_eq!(memory.guest_addr(outside), None);
        }
    }

    #[test]
    fn file_that_may_shrink_is_refused() {
        let table = [VhostUserMemoryRegion::new(0, 0x1000, 0, 0)];
        let error = SharedMemory::map(&table, vec![memfd(0x1000, SealFlag::empty())]).unwrap_err();
        assert!(matches!(error, MemoryError::NotSealed { guest_addr: 0 }), "{error}");
    }

    #[test]
    fn file_shorter_than_its_region_is_refused() {
        let table = [VhostUserMemoryRegion::new(0, 0x2000, 0, 0x1000)];
        let error = SharedMemory::map(&table, vec![memfd(0x2000, SHRINK)]).unwrap_err();
        assert!(matches!(error, MemoryError::Map { .. }), "{error}");
    }

    #[test]
    fn overlapping_and_unpaired_regions_are_refused() {
        let table = [VhostUserMemoryRegion::new(0, 0x2000, 0, 0); 2];
        let files = || vec![memfd(0x2000, SHRINK), memfd(0x2000, SHRINK)];
        assert!(matches!(SharedMemory::map(&table, files()), Err(MemoryError::Layout(_))));
        let error = SharedMemory::map(&table[..1], files()).unwrap_err();
        assert!(matches!(error, MemoryError::Unpaired { regions: 1, files: 2 }));
    }
}
