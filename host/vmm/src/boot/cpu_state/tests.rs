//! Tables walked as the processor does.

use super::super::testing::ram;
use super::*;
use crate::layout::{COMMAND_LINE, HOLE_END, VIRTIO_BASE};

const _: () = assert!(PAGE_TABLES + (2 + DIRECTORIES) * PAGE <= COMMAND_LINE);

const LINUX64: Entry = Entry { protocol: Protocol::Linux64, address: 0x100_0000 };
const PVH: Entry = Entry { protocol: Protocol::Pvh, address: 0x100_0200 };

fn state(entry: Entry) -> (kvm_regs, kvm_sregs) {
    // What a reset leaves must not stay.
    let mut regs = kvm_regs { rdx: 0x600, rsi: 9, ..kvm_regs::default() };
    let mut sregs = kvm_sregs { cr0: 0x6000_0010, apic_base: 0xfee0_0900, ..kvm_sregs::default() };
    sregs.cs.base = 0xffff_0000;
    entry.registers(&mut regs, &mut sregs);
    (regs, sregs)
}

/// The physical address of a linear one, `None` where the processor would fault.
fn walk(memory: &Memory, cr3: u64, addr: u64) -> Option<u64> {
    let read = |table: u64, index: u64| {
        let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
        (entry & 1 == 1).then_some(entry)
    };
    let frame = |entry: u64| entry & 0x000f_ffff_ffff_f000;
    let pml4 = read(cr3, addr >> 39 & 511)?;
    let pointer = read(frame(pml4), addr >> 30 & 511)?;
    let directory = read(frame(pointer), addr >> 21 & 511)?;
    assert_eq!(directory & 0x80, 0x80, "a large page");
    assert_eq!(pml4 & pointer & directory & 2, 2, "writable");
    Some(frame(directory) | addr & 0x1f_ffff)
}

#[test]
fn first_4_gib_are_mapped_to_themselves_and_no_more() {
    let ram = ram(32, 0);
    LINUX64.write_tables(ram.guest()).unwrap();
    let (_, sregs) = state(LINUX64);
    for addr in
        [0, 0x1234, ZERO_PAGE, 0x100_0000, (1 << 30) - 1, 1 << 30, VIRTIO_BASE, HOLE_END - 1]
    {
        assert_eq!(walk(ram.guest(), sregs.cr3, addr), Some(addr), "{addr:#x}");
    }
    for addr in [HOLE_END, 1 << 39, 0x7fff_ffff_f000] {
        assert_eq!(walk(ram.guest(), sregs.cr3, addr), None, "{addr:#x}");
    }
}

#[test]
fn linux64_starts_in_long_mode_with_the_zero_page() {
    let (regs, sregs) = state(LINUX64);
    assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x100_0000, ZERO_PAGE, 2));
    assert_eq!((regs.rdx, regs.rsp & 0xf), (0, 0));
    assert_eq!(sregs.cr0 & (1 | 1 << 31), 1 | 1 << 31);
    assert_eq!((sregs.cr4, sregs.efer), (1 << 5, 0x500));
    assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.selector, sregs.cs.base), (1, 0, 0x10, 0));
    assert_eq!((sregs.ss.selector, sregs.ds.selector), (0x18, 0x18));
    assert_eq!(sregs.apic_base, 0xfee0_0900, "the APIC stays as it is");
}

#[test]
fn pvh_starts_in_protected_mode_without_paging() {
    let (regs, sregs) = state(PVH);
    assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x100_0200, PVH_INFO, 2));
    assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
    assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.base), (0, 1, 0));
    assert_eq!((sregs.tr.base, sregs.tr.limit, sregs.tr.type_), (0, 0x67, 11));
    for segment in [sregs.cs, sregs.ds, sregs.es, sregs.ss] {
        assert_eq!((segment.limit, segment.base, segment.present), (u32::MAX, 0, 1));
    }
}

/// The descriptors in memory say what the registers hold, so that reloading changes nothing.
#[test]
fn descriptors_in_memory_are_those_of_the_registers() {
    for entry in [LINUX64, PVH] {
        let ram = ram(32, 0);
        entry.write_tables(ram.guest()).unwrap();
        let (_, sregs) = state(entry);
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (BOOT_GDT, 31));
        assert!(BOOT_GDT + u64::from(sregs.gdt.limit) < BOOT_IDT);
        for segment in [sregs.cs, sregs.ds] {
            let at = BOOT_GDT + u64::from(segment.selector);
            let descriptor: u64 = ram.guest().read_obj(GuestAddress(at)).unwrap();
            let bits = |from: u32, count: u32| descriptor >> from & ((1 << count) - 1);
            assert_eq!(bits(40, 4), u64::from(segment.type_));
            assert_eq!(bits(44, 1), u64::from(segment.s));
            assert_eq!(bits(47, 1), u64::from(segment.present));
            assert_eq!(bits(53, 1), u64::from(segment.l));
            assert_eq!(bits(54, 1), u64::from(segment.db));
            assert_eq!(bits(55, 1), u64::from(segment.g));
            assert_eq!(bits(0, 16) | bits(48, 4) << 16, 0xf_ffff);
            assert_eq!(bits(16, 24) | bits(56, 8) << 24, segment.base);
        }
    }
}
