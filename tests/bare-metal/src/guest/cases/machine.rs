//! The machine without its devices: memory, ports, processors, and its ends.

use super::Cases;
use crate::guest::serial::{self, say};
use crate::guest::{boot, clock, gate, interrupts, memory};

pub const CASES: Cases = &[
    ("hello", hello),
    ("memory", all_memory),
    ("ports", ports),
    ("unknown-mmio", unknown_mmio),
    ("triple-fault", triple_fault),
    ("hang", hang),
    ("halt", halt),
    ("processors", processors),
    ("cpuid", cpuid),
    ("serial-lines", serial_lines),
    ("serial-flood", serial_flood),
    ("timer", timer),
];

/// What entry.s maps.
const MAPPED_END: u64 = 8 << 30;
/// Between two words that the memory case looks at.
const MEMORY_STEP: u64 = 4 << 20;

fn hello() {
    say!("protocol {}", boot::protocol());
    say!("command line {}", boot::command_line());
}

/// Says how much memory there is, and that it is memory, without holes and echoes.
fn all_memory() {
    let mut total = 0;
    for (start, len) in boot::usable_memory() {
        say!("memory {start:#x} {len:#x}");
        total += len;
    }
    say!("total {} KiB", total >> 10);
    for_each_step(|at| memory::write64(at, at ^ 0x55aa));
    for_each_step(|at| assert_eq!(memory::read64(at), at ^ 0x55aa, "the word at {at:#x}"));
}

fn for_each_step(mut visit: impl FnMut(u64)) {
    for (start, len) in boot::usable_memory() {
        let end = (start + len).min(MAPPED_END);
        // Ours, and the stack and tables of the start, stay as they are.
        let mut at = start.max(32 << 20);
        while at + 8 <= end {
            visit(at);
            visit((at + MEMORY_STEP - 8).min(end - 8));
            at += MEMORY_STEP;
        }
    }
}

/// Whatever is or is not at a port, an access of any width ends.
fn ports() {
    let mut read = 0_u32;
    for port in (0..0x1000_u16).step_by(3).chain((0x1000..=0xfff0).step_by(0x1f1)) {
        gate::in8(port);
        gate::in16(port);
        gate::in32(port);
        read += 3;
    }
    let mut written = 0_u32;
    for port in (0..0x1000_u16).step_by(17).chain((0x1000..=0xfff0).step_by(0x3f1)) {
        // Not the ports that end a machine (0x64, 0xcf9), and not ours.
        if matches!(port, 0x5d..=0x67 | 0x3f0..=0x3ff | 0xcf5..=0xcff) {
            continue;
        }
        gate::out8(port, 0);
        gate::out16(port, 0);
        gate::out32(port, 0);
        written += 3;
    }
    interrupts::mask_legacy();
    say!("ports read {read} written {written}");
}

/// Addresses where nothing is: reads end, writes change nothing.
fn unknown_mmio() {
    for at in [0xc000_0000, 0xc800_0ff8, 0xd100_0000, 0xe000_0004, 0xfd00_0000, 0xfff0_0008_u64] {
        memory::write8(at, 1);
        memory::write16(at, 2);
        memory::write32(at, 3);
        memory::write64(at, 4);
        memory::read8(at);
        memory::read16(at + 1);
        memory::read32(at);
        let value = memory::read64(at);
        assert_ne!(value, 4, "there is memory at {at:#x}");
    }
}

fn triple_fault() {
    gate::triple_fault();
}

/// Never ends, and never leaves the guest.
fn hang() {
    say!("hanging");
    loop {
        core::hint::spin_loop();
    }
}

/// Never ends, in HLT.
fn halt() {
    say!("halting");
    loop {
        gate::wait();
    }
}

/// Starts all other processors, `cpus=N` of them with this one, as a kernel does.
fn processors() {
    const PAGE: u8 = 0x10;
    const COUNTER: u64 = 0x100;
    let wanted = boot::number("cpus").expect("cpus=N") - 1;
    let base = u64::from(PAGE) << 12;
    let (code, len) = memory::second_processor_code();
    assert!(len <= COUNTER, "the code of {len} bytes is longer than its place");
    memory::copy(base, code, len);
    memory::write16(base + COUNTER, 0);
    interrupts::start_others(PAGE);
    let end = clock::after_ms(clock::PATIENCE_MS);
    while u64::from(memory::read16(base + COUNTER)) < wanted {
        assert!(!end.is_past(), "{} others started", memory::read16(base + COUNTER));
    }
    clock::pause_ms(20);
    // SIPI comes twice, and a processor that runs ignores it.
    say!("others {}", memory::read16(base + COUNTER));
    assert_eq!(u64::from(memory::read16(base + COUNTER)), wanted);
}

/// Says what CPUID tells of the hypervisor, and of the processors.
fn cpuid() {
    let [_, ebx, ecx, edx] = gate::cpuid(0x4000_0000, 0);
    let mut name = [0; 12];
    for (part, value) in name.chunks_exact_mut(4).zip([ebx, ecx, edx]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    say!("hypervisor {}", core::str::from_utf8(&name).unwrap_or("?").trim_end_matches('\0'));
    let [features, ..] = gate::cpuid(0x4000_0001, 0);
    say!("kvmclock {}", features >> 3 & 1);
    let [_, ebx, ecx, _] = gate::cpuid(1, 0);
    say!("hypervisor-bit {}", ecx >> 31);
    say!("processors {} id {}", ebx >> 16 & 0xff, ebx >> 24);
    let [shift, count, kind, id] = gate::cpuid(0xb, 1);
    say!("topology shift {} count {} level {:#x} id {id}", shift & 0x1f, count & 0xffff, kind);
}

/// Numbered lines, `lines=N`, none of which may be lost.
fn serial_lines() {
    for line in 0..boot::number("lines").unwrap_or(200) {
        say!("line {line:06} the quick brown fox jumps over the lazy dog");
    }
}

/// `kib=N` as fast as it goes, by string instructions.
fn serial_flood() {
    let kib = boot::number("kib").unwrap_or(1024);
    let block = memory::take(1024);
    memory::fill(block, b'x', 1024);
    memory::write8(block + 1023, b'\n');
    for _ in 0..kib {
        gate::out_all(serial::PORT, memory::bytes(block, 1024));
    }
    say!("flooded {kib} KiB");
}

/// The local timer's interrupt wakes a processor that halts.
fn timer() {
    let start = clock::ticks();
    let never = interrupts::Line::of_input(1);
    assert!(!never.comes_beyond(never.count(), 20), "an interrupt that nobody sends");
    let micros = clock::micros(start, clock::ticks());
    assert!(micros >= 19_000, "20 ms were {micros} us");
}
