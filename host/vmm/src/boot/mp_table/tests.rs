//! The table, read back by the specification.

use std::collections::BTreeMap;

use super::*;

fn u16_at(table: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(table[at..at + 2].try_into().unwrap())
}

fn u32_at(table: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(table[at..at + 4].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// What a kernel finds: the entries by type, in their order.
fn parse(table: &[u8]) -> BTreeMap<u8, Vec<Vec<u8>>> {
    assert_eq!(table[..4], *b"_MP_");
    assert_eq!(u64::from(u32_at(table, 4)), MP_TABLE + 16);
    assert_eq!((table[8], table[9]), (1, 4));
    assert_eq!(sum(&table[..16]), 0);
    assert_eq!(table[11..16], [0; 5], "a default configuration, or PIC mode");

    let config = &table[16..];
    assert_eq!(config[..4], *b"PCMP");
    assert_eq!(usize::from(u16_at(config, 4)), config.len());
    assert_eq!(sum(config), 0);
    assert_eq!(u32_at(config, 36), 0xfee0_0000);
    assert_eq!(u16_at(config, 40), 0, "no extended table");
    let mut entries = BTreeMap::<u8, Vec<Vec<u8>>>::new();
    let mut rest = &config[44..];
    let mut last = 0;
    for _ in 0..u16_at(config, 34) {
        let kind = rest[0];
        assert!(kind >= last, "entries are sorted by type");
        last = kind;
        let (entry, behind) = rest.split_at(if kind == 0 { 20 } else { 8 });
        entries.entry(kind).or_default().push(entry.to_vec());
        rest = behind;
    }
    assert!(rest.is_empty(), "more than it counts");
    entries
}

#[test]
fn every_number_of_processors_makes_a_right_table_that_fits() {
    for cpus in 1..=32u8 {
        let table = build(cpus);
        assert!(table.len() <= 1024, "{cpus}: {}", table.len());
        let entries = parse(&table);
        let processors = &entries[&0];
        assert_eq!(processors.len(), usize::from(cpus));
        for (id, entry) in processors.iter().enumerate() {
            assert_eq!(usize::from(entry[1]), id);
            assert_eq!(entry[3], if id == 0 { 3 } else { 1 }, "usable, one starts");
        }
        assert_eq!(entries[&2].len(), 1);
        assert_eq!(entries[&2][0], [2, cpus, 0x11, 1, 0, 0, 0xc0, 0xfe]);
    }
}

#[test]
fn every_pin_of_the_io_apic_is_the_interrupt_of_its_number() {
    let entries = parse(&build(2));
    assert_eq!(entries[&1], [b"\x01\0ISA   ".to_vec()]);
    let interrupts = &entries[&3];
    assert_eq!(interrupts.len(), 24);
    for (gsi, entry) in (0..).zip(interrupts) {
        assert_eq!(*entry, [3, 0, 0, 0, 0, gsi, 2, gsi]);
    }
}

#[test]
fn local_interrupts_are_the_pic_and_the_nmi() {
    let entries = parse(&build(1));
    assert_eq!(entries[&4], [vec![4, 3, 0, 0, 0, 0, 0, 0], vec![4, 1, 0, 0, 0, 0, 0xff, 1]]);
}
