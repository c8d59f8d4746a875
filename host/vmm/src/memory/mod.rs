//! The guest's memory: one sealed memfd, mapped shared, with the MMIO hole in its address space.
//! Knows no KVM and no device.
//!
//! ```text
//! file:   | low memory      | high memory     | hot-plug  |
//! guest:  0 ..     HOLE_START  HOLE_END ..       HOTPLUG_ALIGN ..
//! ```
//!
//! - [`guest`]: the memory by the guest's addresses;
//! - [`hotplug`]: how much of the hot-plug region is there;
//! - here: the file, its parts, and what is done with its pages.
//!
//! Nothing of it is reserved: the host gives pages when they are touched, and [`discard`] gives
//! them back. The seals let a vhost-user back end map the file without fear that it shrinks.

#![allow(unsafe_code)]

mod guest;
mod hotplug;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::sendfile::sendfile64;
use nix::sys::sysinfo::sysinfo;
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress, MmapRegion,
};

pub use guest::Memory;
pub use hotplug::Hotplug;

use crate::layout::{HOLE_END, HOLE_START, HOTPLUG_ALIGN};

/// The least memory of a guest.
pub const MIN_MIB: u32 = 32;
/// The most memory of a guest, with what can be plugged: 64 GiB.
pub const MAX_MIB: u32 = 64 << 10;
/// The size of a page, and the unit of [`discard`].
pub const PAGE_SIZE: u64 = 4096;
/// MFD_NOEXEC_SEAL of linux/memfd.h (Linux 6.3): never executable, and sealable.
const MFD_NOEXEC_SEAL: u32 = 8;

/// How much memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// There from the start.
    pub mib: u32,
    /// The most that can be plugged later, beside `mib`. 0 for none.
    pub hotplug_mib: u32,
}

/// A part of guest memory that is contiguous for the guest and in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Its first byte for the guest.
    pub guest_addr: u64,
    /// In bytes.
    pub len: u64,
    /// Where it begins in the file.
    pub file_offset: u64,
    /// Not there at the start: it is virtio-mem's, and no memory map has it.
    pub hotplug: bool,
}

/// Why there is no memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Too little to boot.
    #[error("{mib} MiB of memory are too few: a virtual machine has {MIN_MIB} at least")]
    TooSmall {
        /// What was asked for.
        mib: u32,
    },
    /// More than a guest may have.
    #[error("{mib} MiB of memory are too many: a virtual machine has {MAX_MIB} at most")]
    TooLarge {
        /// What was asked for, with what can be plugged.
        mib: u64,
    },
    /// More than the host has.
    #[error("{mib} MiB of memory are more than the {host_mib} MiB of this host")]
    AboveHost {
        /// What was asked for, with what can be plugged.
        mib: u64,
        /// What the host has.
        host_mib: u64,
    },
    /// A system call was refused.
    #[error("set up guest memory: {call}")]
    System {
        /// Which.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The regions do not fit together.
    #[error("order the regions of guest memory")]
    Layout(#[source] vm_memory::GuestRegionCollectionError),
}

fn refused<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> MemoryError {
    move |source| MemoryError::System { call, source: source.into() }
}

/// A guest's memory.
#[derive(Debug)]
pub struct Ram {
    guest: Memory,
    hotplug: Option<Hotplug>,
    regions: Vec<Region>,
    file: Arc<File>,
}

impl Ram {
    /// Memory full of zeroes, of which no page is there yet. Of the hot-plug region nothing is
    /// there.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn create(size: Size) -> Result<Self, MemoryError> {
        Self::create_on_host(size, host_mib()?)
    }

    pub(crate) fn create_on_host(size: Size, host_mib: u64) -> Result<Self, MemoryError> {
        check_on_host(size, host_mib)?;
        let regions = plan(size);
        let len = regions.iter().map(|region| region.len).sum();
        let file = Arc::new(sealed_memfd(len)?);
        let hotplug = regions.iter().find(|region| region.hotplug).copied();
        let always = regions.iter().filter(|region| !region.hotplug).copied();
        let mapped: Result<Vec<_>, _> = always
            .chain(hotplug.into_iter().flat_map(hotplug::chunks))
            .map(|part| map(&part, &file))
            .collect();
        let mapped = GuestMemoryMmap::from_regions(mapped?).map_err(MemoryError::Layout)?;
        let guest = Memory::up_to(mapped, hotplug.map_or(u64::MAX, |region| region.guest_addr));
        let hotplug = hotplug.map(|region| Hotplug::new(region, guest.clone()));
        Ok(Self { guest, hotplug, regions, file })
    }

    /// The memory by guest addresses.
    #[must_use]
    pub fn guest(&self) -> &Memory {
        &self.guest
    }

    /// Its parts, from the lowest address up.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The part that virtio-mem fills, if there is one.
    #[must_use]
    pub fn hotplug(&self) -> Option<&Hotplug> {
        self.hotplug.as_ref()
    }

    /// The memfd.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether this host has so much memory, and a guest may have it.
///
/// # Errors
/// [`MemoryError`].
pub fn check(size: Size) -> Result<(), MemoryError> {
    check_on_host(size, host_mib()?)
}

fn host_mib() -> Result<u64, MemoryError> {
    Ok(sysinfo().map_err(refused("sysinfo"))?.ram_total() >> 20)
}

fn check_on_host(size: Size, host_mib: u64) -> Result<(), MemoryError> {
    let Size { mib, hotplug_mib } = size;
    if mib < MIN_MIB {
        return Err(MemoryError::TooSmall { mib });
    }
    let total = u64::from(mib) + u64::from(hotplug_mib);
    if total > u64::from(MAX_MIB) {
        return Err(MemoryError::TooLarge { mib: total });
    }
    if total > host_mib {
        return Err(MemoryError::AboveHost { mib: total, host_mib });
    }
    Ok(())
}

/// Where memory is for the guest. The hot-plug region never begins at [`HOLE_END`], so the regions
/// that begin at 0 and there are the memory of the start, and any other is hot-plug.
fn plan(size: Size) -> Vec<Region> {
    let len = u64::from(size.mib) << 20;
    let low = len.min(HOLE_START);
    let high = len - low;
    let mut regions = vec![Region { guest_addr: 0, len: low, file_offset: 0, hotplug: false }];
    if high > 0 {
        regions.push(Region { guest_addr: HOLE_END, len: high, file_offset: low, hotplug: false });
    }
    if size.hotplug_mib > 0 {
        regions.push(Region {
            guest_addr: (HOLE_END + high.max(1)).next_multiple_of(HOTPLUG_ALIGN),
            len: u64::from(size.hotplug_mib) << 20,
            file_offset: len,
            hotplug: true,
        });
    }
    regions
}

/// Whether a region of [`Ram::guest`] is there from the start.
#[must_use]
pub fn is_boot_memory(region: &GuestRegionMmap) -> bool {
    [0, HOLE_END].contains(&region.start_addr().raw_value())
}

fn sealed_memfd(len: u64) -> Result<File, MemoryError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let not_executable = flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL);
    let file = memfd_create("guest-memory", not_executable)
        .or_else(|error| match error {
            // Linux before 6.3 does not know the flag.
            Errno::EINVAL => memfd_create("guest-memory", flags),
            other => Err(other),
        })
        .map(File::from)
        .map_err(refused("memfd_create"))?;
    file.set_len(len).map_err(refused("ftruncate"))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(refused("F_ADD_SEALS"))?;
    Ok(file)
}

fn map(region: &Region, file: &Arc<File>) -> Result<GuestRegionMmap, MemoryError> {
    let invalid = || refused("mmap")(io::Error::from(io::ErrorKind::InvalidInput));
    let len = usize::try_from(region.len).map_err(|_| invalid())?;
    let offset = FileOffset::from_arc(Arc::clone(file), region.file_offset);
    let mapping = MmapRegion::from_file(offset, len)
        .map_err(|error| refused("mmap")(io::Error::other(error)))?;
    keep_out_of_core_dumps(&mapping).map_err(refused("MADV_DONTDUMP"))?;
    GuestRegionMmap::new(mapping, GuestAddress(region.guest_addr)).ok_or_else(invalid)
}

/// A core dump of ours holds nothing of the guest, and is not as large as it.
fn keep_out_of_core_dumps(mapping: &MmapRegion) -> nix::Result<()> {
    let Some(start) = NonNull::new(mapping.as_ptr().cast()) else { return Err(Errno::EFAULT) };
    // SAFETY: start and size are those of a whole mapping that we own, and the advice changes
    // neither its contents nor its protection.
    unsafe { madvise(start, mapping.size(), MmapAdvise::MADV_DONTDUMP) }
}

/// The file and the offset in it of `len` bytes at `addr`: all in one region.
fn in_file(memory: &Memory, addr: u64, len: u64) -> io::Result<(&File, u64)> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let (region, offset) = memory.to_region_addr(GuestAddress(addr)).ok_or_else(outside)?;
    let end = offset.raw_value().checked_add(len).ok_or_else(outside)?;
    if end > region.len() {
        return Err(outside());
    }
    let file = region.file_offset().ok_or(io::ErrorKind::Unsupported)?;
    Ok((file.file(), file.start().checked_add(offset.raw_value()).ok_or_else(outside)?))
}

/// Gives the pages of `len` bytes at `addr` back to the host; they read as zeroes from then on.
/// Whole pages of memory that is there.
///
/// # Errors
/// `InvalidInput` if they are not that: nothing is given back; `Unsupported` if memory has no file;
/// those of fallocate(2).
pub fn discard(memory: &Memory, addr: u64, len: u64) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    if !addr.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
        return Err(invalid());
    }
    let count = usize::try_from(len).map_err(|_| invalid())?;
    if !GuestMemoryBackend::check_range(memory, GuestAddress(addr), count) {
        return Err(invalid());
    }
    let (mut addr, mut left) = (addr, len);
    while left > 0 {
        let (region, offset) = memory.to_region_addr(GuestAddress(addr)).ok_or_else(invalid)?;
        let part = left.min(region.len() - offset.raw_value());
        punch(region, offset, part)?;
        (addr, left) = (addr + part, left - part);
    }
    Ok(())
}

/// As [`discard`], within a region, whether it is there or not.
fn punch(region: &GuestRegionMmap, at: MemoryRegionAddress, len: u64) -> io::Result<()> {
    let file = region.file_offset().ok_or(io::ErrorKind::Unsupported)?;
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = i64::try_from(file.start().saturating_add(at.raw_value())).map_err(too_large)?;
    let len = i64::try_from(len).map_err(too_large)?;
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file.file(), hole, offset, len)?)
}

/// Copies `len` bytes at `offset` of `source` to `addr`, within one region. The kernel copies from
/// its page cache: guest memory is neither zeroed first nor mapped for it. Not for memory that a
/// guest already runs on, and only for one thread: the memfd's position moves.
///
/// # Errors
/// `UnexpectedEof` if `source` ends before; those of sendfile(2).
pub fn copy_from_file(
    memory: &Memory,
    addr: u64,
    source: &File,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut left = usize::try_from(len).map_err(too_large)?;
    let mut offset = i64::try_from(offset).map_err(too_large)?;
    let (mut target, position) = in_file(memory, addr, len)?;
    target.seek(SeekFrom::Start(position))?;
    while left > 0 {
        match sendfile64(target, source, Some(&mut offset), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => left = left.saturating_sub(copied),
            Err(Errno::EINTR) => {}
            // A file system that cannot.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                let done = len - left as u64;
                return read_from_file(memory, addr + done, source, offset.cast_unsigned(), left);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// As [`copy_from_file`], by read(2) into the mapping.
fn read_from_file(
    memory: &Memory,
    addr: u64,
    mut source: &File,
    offset: u64,
    len: usize,
) -> io::Result<()> {
    source.seek(SeekFrom::Start(offset))?;
    memory.read_exact_volatile_from(GuestAddress(addr), &mut source, len).map_err(|error| {
        match error {
            vm_memory::GuestMemoryError::IOError(error) => error,
            other => io::Error::other(other),
        }
    })
}

#[cfg(test)]
mod tests;
