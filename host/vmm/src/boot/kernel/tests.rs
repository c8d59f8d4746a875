//! Files that are kernels, and many that are none.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{self, ElfFile, KERNEL_ADDR, load, note, pvh_notes, ram};
use super::*;

const LOW_END: u64 = 32 << 20;

fn inspect(file: &File) -> Result<Kernel, KernelError> {
    Kernel::inspect(file, LOW_END)
}

fn refusal(elf: &ElfFile) -> KernelError {
    inspect(&elf.file()).unwrap_err()
}

fn entry(elf: &ElfFile, protocol: Option<Protocol>) -> Result<Entry, KernelError> {
    inspect(&elf.file()).unwrap().entry(protocol)
}

#[test]
fn segments_are_copied_and_the_rest_stays_zero() {
    let elf = ElfFile {
        segments: vec![load(0x30_0000, 0x1000, &[7; 0x1000]), load(KERNEL_ADDR, 0x3000, b"code")],
        ..ElfFile::default()
    };
    let file = elf.file();
    let kernel = inspect(&file).unwrap();
    assert_eq!(kernel.end(), 0x30_1000);
    let ram = ram(32, 0);
    kernel.load(&file, ram.guest()).unwrap();
    let byte = |addr| ram.guest().read_obj::<u8>(GuestAddress(addr)).unwrap();
    assert_eq!([byte(KERNEL_ADDR), byte(KERNEL_ADDR + 3)], *b"ce");
    assert_eq!([byte(KERNEL_ADDR - 1), byte(KERNEL_ADDR + 4)], [0, 0]);
    assert_eq!([byte(0x2f_ffff), byte(0x30_0000), byte(0x30_0fff), byte(0x30_1000)], [0, 7, 7, 0]);
}

#[test]
fn files_that_are_no_elf_files_are_told_apart_from_other_machines() {
    for content in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &[0; 4096], b"\x1f\x8b\x08\0\0\0\0\0"] {
        let error = inspect(&testing::file(content)).unwrap_err();
        assert!(matches!(error, KernelError::NotElf), "{error}");
    }
    for other in [
        ElfFile { class: 1, ..ElfFile::default() },
        ElfFile { data: 2, ..ElfFile::default() },
        ElfFile { machine: 3, ..ElfFile::default() },
        ElfFile { machine: 183, ..ElfFile::default() },
        ElfFile { kind: 1, ..ElfFile::default() },
        ElfFile { kind: 4, ..ElfFile::default() },
    ] {
        assert!(matches!(refusal(&other), KernelError::OtherMachine));
    }
}

#[test]
fn what_is_no_regular_file_is_refused() {
    for path in ["/", "/dev/null"] {
        let error = inspect(&File::open(path).unwrap()).unwrap_err();
        assert!(matches!(error, KernelError::NotRegular), "{path}: {error}");
    }
}

#[test]
fn file_cut_off_anywhere_is_refused() {
    let elf = ElfFile { notes: pvh_notes(KERNEL_ADDR), ..ElfFile::default() };
    let whole = elf.bytes();
    assert!(inspect(&testing::file(&whole)).is_ok());
    for len in 4..whole.len() {
        let error = inspect(&testing::file(&whole[..len])).unwrap_err();
        assert!(matches!(error, KernelError::Truncated { .. }), "{len}: {error}");
    }
}

#[test]
fn file_cut_off_between_the_look_and_the_copy_is_an_error() {
    let file = ElfFile::default().file();
    let kernel = inspect(&file).unwrap();
    file.set_len(130).unwrap();
    let error = kernel.load(&file, ram(32, 0).guest()).unwrap_err();
    assert!(
        matches!(error, KernelError::Read(source) if source.kind() == io::ErrorKind::UnexpectedEof)
    );
}

#[test]
fn segments_outside_of_memory_or_over_the_boot_parameters_are_refused() {
    for (addr, len) in [
        (0, 0x1000),
        (0x7000, 0x1000),
        (HIGH_MEMORY - 1, 0x1000),
        (LOW_END, 1),
        (LOW_END - 0xfff, 0x1000),
        (0xffff_ffff_8100_0000, 0x1000),
        (u64::MAX, 2),
        (HIGH_MEMORY, u64::MAX),
    ] {
        let elf = ElfFile { segments: vec![load(addr, len, b"x")], ..ElfFile::default() };
        let error = refusal(&elf);
        assert!(matches!(error, KernelError::OutsideMemory { .. }), "{addr:#x}: {error}");
    }
    let all = vec![load(HIGH_MEMORY, LOW_END - HIGH_MEMORY, b"x")];
    assert!(inspect(&ElfFile { segments: all, ..ElfFile::default() }.file()).is_ok());
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let mut larger_in_file = load(KERNEL_ADDR, 4, b"code");
    larger_in_file.file_len = Some(5);
    for elf in [
        ElfFile { header_count: Some(0), ..ElfFile::default() },
        ElfFile { header_count: Some(65), ..ElfFile::default() },
        ElfFile { header_count: Some(u16::MAX), ..ElfFile::default() },
        ElfFile { header_len: 32, ..ElfFile::default() },
        ElfFile { segments: vec![larger_in_file], ..ElfFile::default() },
        ElfFile {
            segments: vec![load(KERNEL_ADDR + 0xfff, 1, b""), load(KERNEL_ADDR, 0x1000, b"")],
            ..ElfFile::default()
        },
    ] {
        let error = refusal(&elf);
        assert!(matches!(error, KernelError::Headers { .. }), "{error}");
    }
    let far = ElfFile { header_offset: u64::MAX - 8, ..ElfFile::default() };
    assert!(matches!(refusal(&far), KernelError::Truncated { .. }));
}

#[test]
fn entry_is_the_64_bit_one_if_there_is_one() {
    let both = ElfFile { notes: pvh_notes(KERNEL_ADDR + 0x20), ..ElfFile::default() };
    let linux64 = Entry { protocol: Protocol::Linux64, address: KERNEL_ADDR + 0x10 };
    let pvh = Entry { protocol: Protocol::Pvh, address: KERNEL_ADDR + 0x20 };
    assert_eq!(entry(&both, None).unwrap(), linux64);
    assert_eq!(entry(&both, Some(Protocol::Linux64)).unwrap(), linux64);
    assert_eq!(entry(&both, Some(Protocol::Pvh)).unwrap(), pvh);
    for without in [0, 0xffff_ffff_8100_0000] {
        let elf =
            ElfFile { entry: without, notes: pvh_notes(KERNEL_ADDR + 0x20), ..ElfFile::default() };
        assert_eq!(entry(&elf, None).unwrap(), pvh);
    }
}

#[test]
fn missing_entry_and_entry_outside_of_the_kernel_are_errors() {
    let none = ElfFile { entry: 0, ..ElfFile::default() };
    assert!(matches!(entry(&none, None), Err(KernelError::NoEntry)));
    let nothing_loaded = ElfFile { segments: vec![load(0, 0, b"")], ..ElfFile::default() };
    assert!(matches!(entry(&nothing_loaded, None), Err(KernelError::EntryOutside { .. })));
    for addr in [1, KERNEL_ADDR - 1, KERNEL_ADDR + 0x3000, u64::MAX] {
        let elf = ElfFile { entry: addr, ..ElfFile::default() };
        let error = entry(&elf, None).unwrap_err();
        assert!(matches!(error, KernelError::EntryOutside { addr: at } if at == addr), "{error}");
    }
    let error = entry(&ElfFile::default(), Some(Protocol::Pvh)).unwrap_err();
    assert!(matches!(error, KernelError::NoPvhEntry), "{error}");
    let outside = ElfFile { entry: 0, notes: pvh_notes(0x1000), ..ElfFile::default() };
    for protocol in [None, Some(Protocol::Pvh)] {
        let error = entry(&outside, protocol).unwrap_err();
        assert!(matches!(error, KernelError::EntryOutside { addr: 0x1000 }), "{error}");
    }
}

#[test]
fn pvh_entry_is_found_behind_other_notes_only_if_it_is_whole() {
    assert_eq!(pvh_entry(&pvh_notes(0x1234_5678)), Some(0x1234_5678));
    assert_eq!(pvh_entry(&note(b"Xen\0", 18, &[1, 2, 3, 4])), Some(0x0403_0201));
    let odd = [note(b"a", 1, b"b"), note(b"Xen\0", 18, &[9, 0, 0, 0])].concat();
    assert_eq!(pvh_entry(&odd), Some(9));
    for none in [
        vec![],
        note(b"Xen\0", 17, &[1, 2, 3, 4]),
        note(b"Xan\0", 18, &[1, 2, 3, 4]),
        note(b"Xen\0", 18, &[1, 2, 3]),
        note(b"Xen\0", 18, &[1, 2, 3, 4])[..19].to_vec(),
        vec![0xff; 64],
        vec![0; 8],
    ] {
        assert_eq!(pvh_entry(&none), None, "{none:?}");
    }
}

proptest! {
    #[test]
    fn notes_of_any_bytes_are_read_without_harm(notes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = pvh_entry(&notes);
    }

    /// Whatever is accepted lies in memory above the boot parameters, and in its file.
    #[test]
    fn changed_bytes_never_lead_outside_of_memory_or_the_file(
        changes in proptest::collection::vec((0usize..240, any::<u8>()), 1..12),
    ) {
        let elf = ElfFile { notes: pvh_notes(KERNEL_ADDR), ..ElfFile::default() };
        let mut bytes = elf.bytes();
        for (index, value) in changes {
            if let Some(byte) = bytes.get_mut(index) {
                *byte = value;
            }
        }
        let file = testing::file(&bytes);
        if let Ok(kernel) = inspect(&file) {
            for segment in &kernel.segments {
                prop_assert!(segment.addr >= HIGH_MEMORY);
                prop_assert!(segment.addr + segment.len <= LOW_END);
                prop_assert!(segment.file_offset + segment.file_len <= bytes.len() as u64);
                prop_assert!(segment.file_len <= segment.len);
            }
            if let Ok(entry) = kernel.entry(None) {
                prop_assert!((HIGH_MEMORY..LOW_END).contains(&entry.address));
            }
        }
    }
}
