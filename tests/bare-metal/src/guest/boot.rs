//! What the machine was told at its start: the command line and the map of memory, by either of two
//! protocols.

use core::sync::atomic::{AtomicU64, Ordering};

use super::memory;

/// PVH: RBX of the entry. Else the 64-bit entry of Linux.
const PVH: u64 = 1;
/// hvm_start_info, magic. Xen's public/arch-x86/hvm/start_info.h.
const PVH_MAGIC: u32 = 0x336e_c578;
const PVH_COMMAND_LINE: u64 = 24;
const PVH_MEMORY_MAP: u64 = 40;
const PVH_MEMORY_ENTRIES: u64 = 48;
const PVH_ENTRY_LEN: u64 = 24;
/// boot_params. Linux arch/x86/include/uapi/asm/bootparam.h.
const LINUX_E820_ENTRIES: u64 = 0x1e8;
const LINUX_HEADER_MAGIC: u64 = 0x202;
const LINUX_COMMAND_LINE: u64 = 0x228;
const LINUX_E820: u64 = 0x2d0;
const LINUX_E820_LEN: u64 = 20;
/// "HdrS"
const LINUX_MAGIC: u32 = 0x5372_6448;
/// The most bytes of the command line. COMMAND_LINE_SIZE of Linux on x86.
const COMMAND_LINE_MAX: usize = 2048;
/// E820_TYPE_RAM.
const USABLE: u32 = 1;

static PROTOCOL: AtomicU64 = AtomicU64::new(0);
static INFO: AtomicU64 = AtomicU64::new(0);

/// What the entry code found.
pub fn remember(protocol: u64, info: u64) {
    PROTOCOL.store(protocol, Ordering::Relaxed);
    INFO.store(info, Ordering::Relaxed);
}

fn info() -> u64 {
    INFO.load(Ordering::Relaxed)
}

fn is_pvh() -> bool {
    PROTOCOL.load(Ordering::Relaxed) == PVH
}

/// `pvh` or `linux`, its magic number asserted.
pub fn protocol() -> &'static str {
    if is_pvh() {
        assert_eq!(memory::read32(info()), PVH_MAGIC, "hvm_start_info");
        "pvh"
    } else {
        assert_eq!(memory::read32(info() + LINUX_HEADER_MAGIC), LINUX_MAGIC, "boot_params");
        "linux"
    }
}

/// The kernel's command line.
pub fn command_line() -> &'static str {
    let at = if is_pvh() {
        memory::read64(info() + PVH_COMMAND_LINE)
    } else {
        memory::read32(info() + LINUX_COMMAND_LINE).into()
    };
    let most = memory::bytes(at, COMMAND_LINE_MAX);
    let len = most.iter().position(|byte| *byte == 0).expect("the command line has an end");
    core::str::from_utf8(&most[..len]).expect("the command line is text")
}

/// The value of `name=value` of the command line.
pub fn word(name: &str) -> Option<&'static str> {
    command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// A number of the command line: decimal, `0x` and hexadecimal, with K, M or G.
pub fn number(name: &str) -> Option<u64> {
    word(name).and_then(parse)
}

/// See [`number`].
pub fn parse(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    value.ok().map(|value| value << shift)
}

/// Usable memory, as address and length.
pub fn usable_memory() -> impl Iterator<Item = (u64, u64)> {
    let (table, count, entry_len) = if is_pvh() {
        let count = memory::read32(info() + PVH_MEMORY_ENTRIES);
        (memory::read64(info() + PVH_MEMORY_MAP), count, PVH_ENTRY_LEN)
    } else {
        let count = memory::read8(info() + LINUX_E820_ENTRIES);
        (info() + LINUX_E820, count.into(), LINUX_E820_LEN)
    };
    (0..u64::from(count))
        .map(move |index| table + index * entry_len)
        .filter(|entry| memory::read32(entry + 16) == USABLE)
        .map(|entry| (memory::read64(entry), memory::read64(entry + 8)))
}
