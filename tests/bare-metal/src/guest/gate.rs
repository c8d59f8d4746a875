//! What needs ring 0, by UD2: the entry code looks at RCX for what is wanted.

#![allow(unsafe_code)]

use core::arch::asm;

const WAIT: u64 = 0;
const OUT8: u64 = 1;
const OUT16: u64 = 2;
const OUT32: u64 = 3;
const IN8: u64 = 4;
const IN16: u64 = 5;
const IN32: u64 = 6;
const OUTS8: u64 = 7;
const TRIPLE_FAULT: u64 = 8;
const CPUID: u64 = 9;

fn call(what: u64, port: u16, value: u32) -> u32 {
    let result: u32;
    // SAFETY: the gate changes no register but RAX, touches no memory of ours, and comes back
    // behind the UD2. What an interrupt counts meanwhile is read as volatile.
    unsafe {
        asm!("ud2", in("rcx") what, in("dx") port, inout("eax") value => result);
    }
    result
}

/// Halts until an interrupt came, which it lets in.
pub fn wait() {
    call(WAIT, 0, 0);
}

/// OUT of a byte.
pub fn out8(port: u16, value: u8) {
    call(OUT8, port, value.into());
}

/// OUT of two bytes.
pub fn out16(port: u16, value: u16) {
    call(OUT16, port, value.into());
}

/// OUT of four bytes.
pub fn out32(port: u16, value: u32) {
    call(OUT32, port, value);
}

/// IN of a byte.
pub fn in8(port: u16) -> u8 {
    call(IN8, port, 0).to_le_bytes()[0]
}

/// IN of two bytes.
pub fn in16(port: u16) -> u16 {
    let [low, high, ..] = call(IN16, port, 0).to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// IN of four bytes.
pub fn in32(port: u16) -> u32 {
    call(IN32, port, 0)
}

/// REP OUTSB: all bytes to one port by one instruction.
pub fn out_all(port: u16, bytes: &[u8]) {
    // SAFETY: the gate reads RDI bytes from RSI, which is the slice, and changes RCX, RSI and the
    // flags only.
    unsafe {
        asm!(
            "ud2",
            inout("rcx") OUTS8 => _,
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            in("rdi") bytes.len(),
        );
    }
}

/// An exception that cannot be delivered.
pub fn triple_fault() -> ! {
    loop {
        call(TRIPLE_FAULT, 0, 0);
    }
}

/// EAX, EBX, ECX, EDX of a leaf of CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (eax, ebx, edx): (u32, u32, u32);
    let ecx: u64;
    // SAFETY: the gate gives EBX in ESI, changes those four registers and nothing else.
    unsafe {
        asm!(
            "ud2",
            inout("rcx") CPUID => ecx,
            inout("eax") leaf => eax,
            out("esi") ebx,
            inout("edx") subleaf => edx,
        );
    }
    let [a, b, c, d, ..] = ecx.to_le_bytes();
    [eax, ebx, u32::from_le_bytes([a, b, c, d]), edx]
}
