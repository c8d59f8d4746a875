//! hvm_start_info: what the PVH protocol tells a kernel. Xen public/arch-x86/hvm/start_info.h.

use std::ops::Range;

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError};

use super::memory_map::MemoryMap;
use crate::Memory;
use crate::layout::COMMAND_LINE;

/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const VERSION: u32 = 1;
/// The list of modules, from the start of the information.
const MODULES: u64 = 0x40;
/// The memory map, from the start of the information.
const MEMORY_MAP: u64 = 0x80;

/// Writes the information to `at`, and behind it what it points to.
///
/// # Errors
/// There is no memory.
pub fn write(
    memory: &Memory,
    at: GuestAddress,
    map: &MemoryMap,
    initramfs: Option<&Range<u64>>,
) -> Result<(), GuestMemoryError> {
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: COMMAND_LINE,
        memmap_paddr: at.unchecked_add(MEMORY_MAP).raw_value(),
        ..hvm_start_info::default()
    };
    if let Some(range) = initramfs {
        info.nr_modules = 1;
        info.modlist_paddr = at.unchecked_add(MODULES).raw_value();
        let module = hvm_modlist_entry {
            paddr: range.start,
            size: range.end - range.start,
            ..hvm_modlist_entry::default()
        };
        memory.write_obj(module, at.unchecked_add(MODULES))?;
    }
    let mut entry_at = at.unchecked_add(MEMORY_MAP);
    for range in map.ranges() {
        let entry = hvm_memmap_table_entry {
            addr: range.addr,
            size: range.len,
            type_: range.kind,
            reserved: 0,
        };
        memory.write_obj(entry, entry_at)?;
        entry_at = entry_at.unchecked_add(size_of::<hvm_memmap_table_entry>() as u64);
        info.memmap_entries += 1;
    }
    memory.write_obj(info, at)
}
