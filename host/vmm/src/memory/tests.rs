//! Sizes and where they lie; what the seals refuse; copying and discarding.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::FdFlag;

use super::*;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn ram(mib: u32, hotplug_mib: u32) -> Ram {
    Ram::create_on_host(Size { mib, hotplug_mib }, u64::from(MAX_MIB)).unwrap()
}

fn places(ram: &Ram) -> Vec<(u64, u64, u64, bool)> {
    let place =
        |region: &Region| (region.guest_addr, region.len, region.file_offset, region.hotplug);
    ram.regions().iter().map(place).collect()
}

#[test]
fn memory_leaves_the_hole_and_goes_on_above_it() {
    assert_eq!(places(&ram(33, 0)), [(0, 33 * MIB, 0, false)]);
    assert_eq!(places(&ram(3071, 0)), [(0, 3 * GIB - MIB, 0, false)]);
    assert_eq!(places(&ram(3072, 0)), [(0, 3 * GIB, 0, false)]);
    assert_eq!(places(&ram(3073, 0)), [(0, 3 * GIB, 0, false), (4 * GIB, MIB, 3 * GIB, false)]);
    assert_eq!(
        places(&ram(65536, 0)),
        [(0, 3 * GIB, 0, false), (4 * GIB, 61 * GIB, 3 * GIB, false)]
    );
}

#[test]
fn hotplug_memory_is_above_all_other_and_aligned() {
    assert_eq!(
        places(&ram(128, 256)),
        [(0, 128 * MIB, 0, false), (4 * GIB + 128 * MIB, 256 * MIB, 128 * MIB, true)]
    );
    let large = ram(3073, 128);
    assert_eq!(
        large.hotplug().copied(),
        Some(Region {
            guest_addr: 4 * GIB + 128 * MIB,
            len: 128 * MIB,
            file_offset: 3073 * MIB,
            hotplug: true
        })
    );
    let boot: Vec<bool> = large.guest().iter().map(is_boot_memory).collect();
    assert_eq!(boot, [true, true, false]);
    assert_eq!(ram(64, 0).hotplug(), None);
}

#[test]
fn sizes_that_no_guest_or_host_can_have_are_refused() {
    let refusal = |mib, hotplug_mib, host_mib| {
        Ram::create_on_host(Size { mib, hotplug_mib }, host_mib).unwrap_err().to_string()
    };
    assert!(refusal(0, 0, 1024).contains("too few"));
    assert!(refusal(31, 0, 1024).contains("too few"));
    assert!(refusal(65537, 0, 1 << 20).contains("too many"));
    assert!(refusal(65536, 1, 1 << 20).contains("65537"));
    assert!(refusal(u32::MAX, u32::MAX, u64::MAX).contains("too many"));
    assert!(refusal(1025, 0, 1024).contains("more than the 1024 MiB"));
    assert!(Ram::create(Size { mib: 32, hotplug_mib: 0 }).is_ok());
}

#[test]
fn first_and_last_byte_of_every_region_are_memory_and_nothing_beside_them() {
    let ram = ram(65536, 0);
    for region in ram.regions() {
        for addr in [region.guest_addr, region.guest_addr + region.len - 8] {
            ram.guest().write_obj(addr, GuestAddress(addr)).unwrap();
            assert_eq!(ram.guest().read_obj::<u64>(GuestAddress(addr)).unwrap(), addr);
        }
    }
    for outside in [HOLE_START - 4, HOLE_START, HOLE_END - 8, 65 * GIB - 4, u64::MAX] {
        assert!(ram.guest().write_obj(0u64, GuestAddress(outside)).is_err(), "{outside:#x}");
    }
}

#[test]
fn file_is_sealed_closed_on_exec_and_takes_no_pages_before_use() {
    let ram = ram(4096, 0);
    let file = File::from(ram.file().try_clone_to_owned().unwrap());
    assert_eq!(file.metadata().unwrap().len(), 4 * GIB);
    assert_eq!(file.metadata().unwrap().blocks(), 0);
    assert!(file.set_len(4096).is_err());
    assert!(file.set_len(5 * GIB).is_err());
    let more = fcntl(ram.file(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
    assert_eq!(more, Err(Errno::EPERM));
    let flags = FdFlag::from_bits_retain(fcntl(ram.file(), FcntlArg::F_GETFD).unwrap());
    assert!(flags.contains(FdFlag::FD_CLOEXEC));
}

#[test]
fn what_is_discarded_reads_as_zeroes_and_goes_back_to_the_host() {
    let ram = ram(3073, 0);
    let file = File::from(ram.file().try_clone_to_owned().unwrap());
    for addr in [0, PAGE_SIZE, HOLE_END] {
        ram.guest().write_obj(u64::MAX, GuestAddress(addr)).unwrap();
    }
    let before = file.metadata().unwrap().blocks();
    discard(ram.guest(), PAGE_SIZE, PAGE_SIZE).unwrap();
    discard(ram.guest(), HOLE_END, PAGE_SIZE).unwrap();
    assert_eq!(before - file.metadata().unwrap().blocks(), 2 * PAGE_SIZE / 512);
    let values = [0, PAGE_SIZE, HOLE_END]
        .map(|addr| ram.guest().read_obj::<u64>(GuestAddress(addr)).unwrap());
    assert_eq!(values, [u64::MAX, 0, 0]);
}

#[test]
fn discarding_outside_of_one_region_or_parts_of_pages_is_refused() {
    let ram = ram(3073, 0);
    for (addr, len) in [
        (1, PAGE_SIZE),
        (0, 1),
        (HOLE_START - PAGE_SIZE, 2 * PAGE_SIZE),
        (HOLE_START, PAGE_SIZE),
        (HOLE_END + MIB, PAGE_SIZE),
        (0, !(PAGE_SIZE - 1)),
        (!(PAGE_SIZE - 1), PAGE_SIZE),
    ] {
        let error = discard(ram.guest(), addr, len).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{addr:#x} {len:#x}");
    }
    let without_file = Memory::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
    let error = discard(&without_file, 0, PAGE_SIZE).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
}

#[test]
fn file_is_copied_to_where_it_belongs_and_its_position_stays() {
    let ram = ram(3073, 0);
    let mut file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
    file.write_all(&content).unwrap();
    for addr in [0x1234, HOLE_END + 1] {
        copy_from_file(ram.guest(), addr, &file, 8, 20_000).unwrap();
        let mut copy = vec![0; 20_001];
        ram.guest().read_slice(&mut copy, GuestAddress(addr)).unwrap();
        assert_eq!(copy[..20_000], content[8..20_008]);
        assert_eq!(copy[20_000], 0);
    }
    assert_eq!(file.stream_position().unwrap(), 40_000);
    let mut copy = vec![0; 20_000];
    read_from_file(ram.guest(), 0x5_0000, &file, 8, copy.len()).unwrap();
    ram.guest().read_slice(&mut copy, GuestAddress(0x5_0000)).unwrap();
    assert_eq!(copy, content[8..20_008]);
}

#[test]
fn copying_more_than_there_is_or_to_outside_is_an_error() {
    let ram = ram(32, 0);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[1; 100]).unwrap();
    let copy = |addr, offset, len| {
        copy_from_file(ram.guest(), addr, &file, offset, len).unwrap_err().kind()
    };
    assert_eq!(copy(0, 0, 101), io::ErrorKind::UnexpectedEof);
    assert_eq!(copy(0, 200, 1), io::ErrorKind::UnexpectedEof);
    assert_eq!(copy(32 * MIB - 1, 0, 2), io::ErrorKind::InvalidInput);
    assert_eq!(copy(HOLE_START, 0, 1), io::ErrorKind::InvalidInput);
    assert_eq!(copy(u64::MAX, 0, 2), io::ErrorKind::InvalidInput);
    assert_eq!(copy(0, u64::MAX, 1), io::ErrorKind::InvalidInput);
}
