//! How the first processor starts: descriptor and page tables in memory, and its registers.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::Protocol;
use crate::Memory;
use crate::layout::{BOOT_GDT, BOOT_IDT, BOOT_STACK, PAGE_TABLES, PVH_INFO, ZERO_PAGE};

/// __BOOT_CS and __BOOT_DS, which the 64-bit boot protocol demands.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

/// Descriptors, Intel SDM 3A §3.4.5: base 0, limit 4 GiB, present.
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// CR0: protection, extension type; paging. Intel SDM 3A §2.5.
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
/// CR4: physical address extension. Intel SDM 3A §2.5.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active. Intel SDM 3A §2.2.1.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS: the bit that is always set; interrupts are off.
const RFLAGS: u64 = 2;

/// Present, writable. Intel SDM 3A §4.5.
const TABLE_ENTRY: u64 = 0b11;
/// Present, writable, a large page. Intel SDM 3A §4.5.
const LARGE_PAGE: u64 = 0b1000_0011;
const PAGE: u64 = 4096;
const LARGE_PAGE_LEN: u64 = 2 << 20;
const ENTRIES_PER_TABLE: u64 = 512;
/// Page directories, of 1 GiB each.
const DIRECTORIES: u64 = 4;

/// Segment types. Intel SDM 3A §3.4.5.1 and §3.5.
const TYPE_CODE: u8 = 0b1011;
const TYPE_DATA: u8 = 0b0011;
const TYPE_BUSY_TSS: u8 = 0b1011;
/// The least limit of a task state segment. Intel SDM 3A §8.2.1.
const TSS_LIMIT: u32 = 0x67;

/// Where the first processor begins, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What the kernel expects.
    pub protocol: Protocol,
    /// Its first instruction.
    pub address: u64,
}

impl Entry {
    /// Sets the registers of the first processor, of which those after its reset are given; the
    /// others wait for a start-up interrupt as they are.
    pub fn registers(&self, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
        *regs = kvm_regs { rip: self.address, rflags: RFLAGS, ..kvm_regs::default() };
        match self.protocol {
            Protocol::Linux64 => {
                regs.rsi = ZERO_PAGE;
                regs.rsp = BOOT_STACK;
                regs.rbp = BOOT_STACK;
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                sregs.cr3 = PAGE_TABLES;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
            }
            Protocol::Pvh => {
                regs.rbx = PVH_INFO;
                sregs.cr0 = CR0_PE | CR0_ET;
                sregs.cr3 = 0;
                sregs.cr4 = 0;
                sregs.efer = 0;
            }
        }
        self.segments(sregs);
    }

    fn segments(&self, sregs: &mut kvm_sregs) {
        let long = self.protocol == Protocol::Linux64;
        let data = kvm_segment {
            limit: u32::MAX,
            selector: DATA_SELECTOR,
            type_: TYPE_DATA,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..kvm_segment::default()
        };
        sregs.cs = kvm_segment {
            selector: CODE_SELECTOR,
            type_: TYPE_CODE,
            db: u8::from(!long),
            l: u8::from(long),
            ..data
        };
        for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
            *segment = data;
        }
        // The processor must have one; nothing uses it.
        sregs.tr = kvm_segment {
            limit: TSS_LIMIT,
            type_: TYPE_BUSY_TSS,
            present: 1,
            ..kvm_segment::default()
        };
        let gdt_limit = u16::try_from(size_of_val(&self.descriptors()) - 1).unwrap_or_default();
        sregs.gdt = kvm_dtable { base: BOOT_GDT, limit: gdt_limit, ..kvm_dtable::default() };
        sregs.idt = kvm_dtable { base: BOOT_IDT, limit: 0, ..kvm_dtable::default() };
    }

    fn descriptors(self) -> [u64; 4] {
        let code = match self.protocol {
            Protocol::Linux64 => CODE_64,
            Protocol::Pvh => CODE_32,
        };
        [0, 0, code, DATA]
    }

    /// Writes what the registers point to.
    ///
    /// # Errors
    /// There is no memory.
    pub fn write_tables(&self, memory: &Memory) -> Result<(), GuestMemoryError> {
        memory.write_obj(self.descriptors(), GuestAddress(BOOT_GDT))?;
        if self.protocol == Protocol::Linux64 {
            write_page_tables(memory)?;
        }
        Ok(())
    }
}

/// Maps the first 4 GiB to themselves, so that a guest without tables of its own reaches all memory
/// below the hole and the devices in it.
fn write_page_tables(memory: &Memory) -> Result<(), GuestMemoryError> {
    let pointers = PAGE_TABLES + PAGE;
    let directory = |index: u64| PAGE_TABLES + (2 + index) * PAGE;
    memory.write_obj(pointers | TABLE_ENTRY, GuestAddress(PAGE_TABLES))?;
    for index in 0..DIRECTORIES {
        let entry = directory(index) | TABLE_ENTRY;
        memory.write_obj(entry, GuestAddress(pointers + index * 8))?;
        let first = index * ENTRIES_PER_TABLE;
        let pages = first..first + ENTRIES_PER_TABLE;
        let table: Vec<u8> =
            pages.flat_map(|page| ((page * LARGE_PAGE_LEN) | LARGE_PAGE).to_le_bytes()).collect();
        memory.write_slice(&table, GuestAddress(directory(index)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
