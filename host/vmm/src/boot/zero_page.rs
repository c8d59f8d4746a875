//! The zero page: what the 64-bit boot protocol tells Linux. Linux Documentation/arch/x86/boot.rst
//! and zero-page.rst; arch/x86/include/uapi/asm/bootparam.h.

use std::ops::Range;

use linux_loader::bootparam::{LOADED_HIGH, boot_e820_entry, boot_params};

use super::memory_map::MemoryMap;
use crate::layout::COMMAND_LINE;

/// At the end of a boot sector.
const BOOT_FLAG: u16 = 0xaa55;
/// "HdrS".
const HEADER: u32 = 0x5372_6448;
/// 2.15, the newest: without a version Linux looks elsewhere for the command line.
const VERSION: u16 = 0x020f;
/// A loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// The zero page. The initramfs and the command line are below 4 GiB, so 32 bits hold them.
#[must_use]
pub fn build(
    map: &MemoryMap,
    command_line_len: usize,
    initramfs: Option<&Range<u64>>,
) -> boot_params {
    let mut page = boot_params::default();
    page.hdr.boot_flag = BOOT_FLAG;
    page.hdr.header = HEADER;
    page.hdr.version = VERSION;
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.hdr.loadflags = LOADED_HIGH;
    page.hdr.cmd_line_ptr = low(COMMAND_LINE);
    page.hdr.cmdline_size = low(command_line_len as u64);
    if let Some(range) = initramfs {
        page.hdr.ramdisk_image = low(range.start);
        page.hdr.ramdisk_size = low(range.end - range.start);
    }
    // Of a packed struct: a copy is changed and put back.
    let mut table = page.e820_table;
    for (entry, range) in table.iter_mut().zip(map.ranges()) {
        *entry = boot_e820_entry { addr: range.addr, size: range.len, r#type: range.kind };
        page.e820_entries += 1;
    }
    page.e820_table = table;
    page
}

fn low(value: u64) -> u32 {
    u32::try_from(value).expect("everything that is loaded is below the hole at 3 GiB")
}
