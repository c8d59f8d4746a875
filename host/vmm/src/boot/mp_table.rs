//! The MP table: processors, the I/O APIC, and which interrupt is which of its pins. MultiProcessor
//! Specification 1.4 §4. It is all that Linux needs in place of ACPI.

use crate::layout::{IO_APIC, LOCAL_APIC, MP_TABLE, VIRTIO_LAST_GSI};

/// §4, "the specification's revision": 1.4.
const REVISION: u8 = 4;
/// §4.1, table 4-1.
const FLOATING_POINTER_LEN: usize = 16;
/// §4.2, table 4-2.
const HEADER_LEN: usize = 44;
/// Where the sum of each structure is made 0.
const FLOATING_POINTER_CHECKSUM: usize = 10;
const HEADER_CHECKSUM: usize = 7;

/// §4.3, table 4-3: entry types.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC_ENTRY: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// §4.3.1: usable; the one that starts.
const CPU_ENABLED: u8 = 1;
const CPU_BOOTSTRAP: u8 = 2;
/// An integrated APIC. §3.6.6
const LOCAL_APIC_VERSION: u8 = 0x14;
/// §4.3.1, table 4-5: a family that has an APIC, and its features: FPU, CMPXCHG8B and APIC. Kernels
/// ask CPUID.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 0x301;
/// §4.3.3: version and "usable".
const IO_APIC_VERSION: u8 = 0x11;
const IO_APIC_ENABLED: u8 = 1;
/// §4.3.2, table 4-8. Its interrupts are edges, active high, as those of virtio over MMIO are.
const ISA: [u8; 6] = *b"ISA   ";
const ISA_BUS: u8 = 0;
/// §4.3.4, table 4-10: interrupt types.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// §4.3.5: every local APIC.
const ALL_LOCAL_APICS: u8 = 0xff;

/// The table for [`MP_TABLE`], at most 1 KiB. Processor n has APIC id n, the I/O APIC the id after
/// the last.
#[must_use]
pub fn build(cpus: u8) -> Vec<u8> {
    let (entries, count) = entries(cpus);
    let mut table = Vec::with_capacity(FLOATING_POINTER_LEN + HEADER_LEN + entries.len());
    table.extend(floating_pointer());
    table.extend(header(&entries, count));
    table.extend(entries);
    table
}

fn floating_pointer() -> [u8; FLOATING_POINTER_LEN] {
    let mut pointer = [0; FLOATING_POINTER_LEN];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&word(MP_TABLE + FLOATING_POINTER_LEN as u64));
    pointer[8] = 1; // its length, in 16 bytes
    pointer[9] = REVISION;
    pointer[FLOATING_POINTER_CHECKSUM] = checksum(&[&pointer]);
    pointer
}

fn header(entries: &[u8], count: u16) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(b"PCMP");
    let len = u16::try_from(HEADER_LEN + entries.len()).expect("the table is below 1 KiB");
    header[4..6].copy_from_slice(&len.to_le_bytes());
    header[6] = REVISION;
    header[8..16].copy_from_slice(b"HUSK    ");
    header[16..28].copy_from_slice(b"HUSK VMM    ");
    header[34..36].copy_from_slice(&count.to_le_bytes());
    header[36..40].copy_from_slice(&word(LOCAL_APIC));
    header[HEADER_CHECKSUM] = checksum(&[&header, entries]);
    header
}

/// The entries in the order of their types, and how many.
fn entries(cpus: u8) -> (Vec<u8>, u16) {
    let io_apic = cpus;
    let mut entries = Vec::new();
    let mut count = 0;
    let mut push = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for cpu in 0..cpus {
        push(&processor(cpu));
    }
    let mut bus = [0; 8];
    bus[..2].copy_from_slice(&[BUS, ISA_BUS]);
    bus[2..].copy_from_slice(&ISA);
    push(&bus);
    let mut chip = [0; 8];
    chip[..4].copy_from_slice(&[IO_APIC_ENTRY, io_apic, IO_APIC_VERSION, IO_APIC_ENABLED]);
    chip[4..].copy_from_slice(&word(IO_APIC));
    push(&chip);
    // Beyond 15 no ISA interrupt has been, but this is how Linux learns of the pin.
    for gsi in (0u8..).take(VIRTIO_LAST_GSI as usize + 1) {
        push(&[IO_INTERRUPT, INT, 0, 0, ISA_BUS, gsi, io_apic, gsi]);
    }
    push(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    push(&[LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1]);
    (entries, count)
}

fn processor(cpu: u8) -> [u8; 20] {
    let flags = if cpu == 0 { CPU_ENABLED | CPU_BOOTSTRAP } else { CPU_ENABLED };
    let mut entry = [0; 20];
    entry[..4].copy_from_slice(&[PROCESSOR, cpu, LOCAL_APIC_VERSION, flags]);
    entry[4..8].copy_from_slice(&CPU_SIGNATURE.to_le_bytes());
    entry[8..12].copy_from_slice(&CPU_FEATURES.to_le_bytes());
    entry
}

fn word(address: u64) -> [u8; 4] {
    u32::try_from(address).expect("layout: below 4 GiB").to_le_bytes()
}

/// What makes the sum of all bytes 0.
fn checksum(parts: &[&[u8]]) -> u8 {
    let sum = parts.concat().into_iter().fold(0u8, u8::wrapping_add);
    sum.wrapping_neg()
}

#[cfg(test)]
mod tests;
