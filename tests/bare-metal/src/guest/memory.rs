//! Physical memory and registers in it: any address, by value. A wrong one is an exception, which
//! ends the case and says where.

#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// Memory that nobody uses: behind the program, before what may lie at the end of the smallest
/// machine.
const FREE_START: u64 = 8 << 20;
const FREE_END: u64 = 26 << 20;
/// Of a page.
pub const PAGE: u64 = 4096;

static NEXT: AtomicU64 = AtomicU64::new(FREE_START);

/// Takes zeroed memory, for good. Aligned to a page.
pub fn take(len: u64) -> u64 {
    let pages = len.div_ceil(PAGE).max(1) * PAGE;
    let at = NEXT.fetch_add(pages, Ordering::Relaxed);
    assert!(at + pages <= FREE_END, "the case takes too much memory");
    fill(at, 0, pages);
    at
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $class:ident, $form:literal) => {
        /// Reads by one MOV of this width.
        pub fn $read(at: u64) -> $type {
            let value: $type;
            // SAFETY: an address that is no memory traps; what is memory and has Rust's objects in
            // it is not read by any case.
            unsafe {
                asm!(concat!("mov {value", $form, "}, [{at}]"), at = in(reg) at,
                     value = out($class) value, options(nostack, preserves_flags));
            }
            value
        }

        /// Writes by one MOV of this width.
        pub fn $write(at: u64, value: $type) {
            // SAFETY: no case writes to where Rust's objects are: addresses are registers, taken
            // memory, or memory that the machine has beyond the program's.
            unsafe {
                asm!(concat!("mov [{at}], {value", $form, "}"), at = in(reg) at,
                     value = in($class) value, options(nostack, preserves_flags));
            }
        }
    };
}

access!(read8, write8, u8, reg_byte, "");
access!(read16, write16, u16, reg, ":x");
access!(read32, write32, u32, reg, ":e");
access!(read64, write64, u64, reg, ":r");

/// Fills memory.
pub fn fill(at: u64, byte: u8, len: u64) {
    // SAFETY: as in the writes above.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") at => _, in("al") byte,
             options(nostack, preserves_flags));
    }
}

/// Copies memory, from its start to its end.
pub fn copy(to: u64, from: u64, len: u64) {
    // SAFETY: as in the writes above.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
}

/// Puts bytes there.
pub fn put(at: u64, bytes: &[u8]) {
    copy(at, bytes.as_ptr() as u64, bytes.len() as u64);
}

/// The bytes there, which stay as they are for as long as anybody looks.
pub fn bytes(at: u64, len: usize) -> &'static [u8] {
    // SAFETY: the caller names memory that it has taken or that the machine gave, and writes
    // nothing to it meanwhile; it is all mapped.
    unsafe { core::slice::from_raw_parts(at as *const u8, len) }
}

/// Where the program's counter of an interrupt vector is.
pub fn address_of_interrupt_counts() -> u64 {
    unsafe extern "C" {
        static interrupt_counts: [u32; 256];
    }
    (&raw const interrupt_counts) as u64
}

/// The code of a second processor.
pub fn second_processor_code() -> (u64, u64) {
    unsafe extern "C" {
        static second_start: u8;
        static second_end: u8;
    }
    let start = (&raw const second_start) as u64;
    (start, (&raw const second_end) as u64 - start)
}

/// What was written before is seen before what is written or read after, by devices too.
pub fn barrier() {
    fence(Ordering::SeqCst);
}

/// A pattern that tells its place and its seed.
pub fn pattern(at: u64, len: u64, seed: u64) {
    for offset in (0..len).step_by(8) {
        write64(at + offset, word(offset, seed));
    }
}

/// Asserts a pattern.
#[track_caller]
pub fn expect_pattern(at: u64, len: u64, seed: u64) {
    for offset in (0..len).step_by(8) {
        let (is, should) = (read64(at + offset), word(offset, seed));
        assert_eq!(is, should, "at offset {offset:#x} of the pattern {seed}");
    }
}

fn word(offset: u64, seed: u64) -> u64 {
    (offset + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// What compilers call, without a library that has it.
mod called_by_the_compiler {
    use core::arch::asm;

    // SAFETY: no other symbol has this name, and it does what C's does.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // SAFETY: the caller's promise is C's.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _);
        }
        to
    }

    // SAFETY: no other symbol has this name, and it does what C's does.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= len {
            // SAFETY: the caller's promise is C's, and a copy from the start to the end is right.
            return unsafe { memcpy(to, from, len) };
        }
        // SAFETY: the caller's promise is C's; from the end to the start.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rcx") len => _,
                 inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
                 inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _);
        }
        to
    }

    // SAFETY: no other symbol has this name, and it does what C's does.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: the caller's promise is C's.
        unsafe {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("eax") byte);
        }
        to
    }

    // SAFETY: no other symbol has this name, and it does what C's does.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        for index in 0..len {
            // SAFETY: the caller's promise is C's. Volatile, or the compiler makes this a memcmp.
            let left = unsafe { a.wrapping_add(index).read_volatile() };
            // SAFETY: as above.
            let right = unsafe { b.wrapping_add(index).read_volatile() };
            if left != right {
                return i32::from(left) - i32::from(right);
            }
        }
        0
    }

    // SAFETY: no other symbol has this name, and it does what C's does.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        // SAFETY: the caller's promise is the same.
        unsafe { memcmp(a, b, len) }
    }
}
