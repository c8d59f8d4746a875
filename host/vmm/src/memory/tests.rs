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
        large.hotplug().map(|hotplug| *hotplug.region()),
        Some(Region {
            guest_addr: 4 * GIB + 128 * MIB,
            len: 128 * MIB,
            file_offset: 3073 * MIB,
            hotplug: true
        })
    );
    let boot: Vec<bool> = large.guest().regions().map(is_boot_memory).collect();
    assert_eq!(boot, [true, true, false]);
    assert!(ram(64, 0).hotplug().is_none());
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
    assert!(refusal(1000, 25, 1024).contains("1025 MiB of memory are more than the 1024 MiB"));
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

#[test]
fn chunks_of_the_hotplug_region_have_all_of_it_and_are_few() {
    for mib in [1, 128, 129, 1000, 8 << 10, (8 << 10) + 1, 20_000, 60 << 10_u64] {
        let region =
            Region { guest_addr: 8 * GIB, len: mib * MIB, file_offset: 128 * MIB, hotplug: true };
        let chunks: Vec<Region> = hotplug::chunks(region).collect();
        assert!(chunks.len() <= 64, "{mib}");
        let mut expected = region;
        for chunk in &chunks {
            let here = (expected.guest_addr, expected.file_offset);
            assert_eq!((chunk.guest_addr, chunk.file_offset), here, "{mib}");
            assert!(chunk.guest_addr.is_multiple_of(HOTPLUG_ALIGN) && chunk.len > 0, "{mib}");
            expected.guest_addr += chunk.len;
            expected.file_offset += chunk.len;
            expected.len -= chunk.len;
        }
        assert_eq!(expected.len, 0, "{mib}");
    }
}

#[test]
fn hotplug_memory_is_there_as_far_as_it_was_let_and_no_further() {
    let ram = ram(64, 300);
    let (hotplug, memory) = (ram.hotplug().unwrap(), ram.guest().clone());
    let start = hotplug.region().guest_addr;
    let write = |offset: u64| memory.write_obj(7u64, GuestAddress(start + offset)).is_ok();
    let chunk = 128 * MIB;
    assert_eq!(memory.iter().count(), 1);
    assert!(!write(0) && !write(300 * MIB - 8));
    let of_needed = [0, 1, chunk, chunk + 1, 300 * MIB, u64::MAX].map(|n| hotplug.whole_chunks(n));
    assert_eq!(of_needed, [0, chunk, chunk, 2 * chunk, 300 * MIB, 300 * MIB]);

    hotplug.set_there_len(2 * chunk);
    assert_eq!((hotplug.there_len(), memory.iter().count()), (2 * chunk, 3));
    assert!(write(0) && write(chunk - 4) && write(2 * chunk - 8));
    assert!(!write(2 * chunk - 4) && !write(2 * chunk), "it would reach what is not there");
    let across = memory.get_slices(GuestAddress(start + chunk - 8), 16);
    assert_eq!(across.map(|slice| slice.unwrap().len()).collect::<Vec<_>>(), [8, 8]);

    hotplug.set_there_len(0);
    assert!(!write(0) && memory.find_region(GuestAddress(start)).is_none());
    assert!(memory.to_region_addr(GuestAddress(start)).is_none());
    assert!(!GuestMemoryBackend::check_range(&memory, GuestAddress(start), 1));
}

#[test]
fn pages_go_back_across_chunks_and_where_memory_is_not_there_any_more() {
    let ram = ram(64, 300);
    let (hotplug, memory) = (ram.hotplug().unwrap(), ram.guest());
    let start = hotplug.region().guest_addr;
    let file = File::from(ram.file().try_clone_to_owned().unwrap());
    let blocks = || file.metadata().unwrap().blocks();
    let chunk = 128 * MIB;
    hotplug.set_there_len(300 * MIB);
    for offset in [0, chunk - 8, chunk, 300 * MIB - 8] {
        memory.write_obj(7u64, GuestAddress(start + offset)).unwrap();
    }
    assert_eq!(blocks(), 4 * PAGE_SIZE / 512);
    discard(memory, start + chunk - PAGE_SIZE, 2 * PAGE_SIZE).unwrap();
    assert_eq!(blocks(), 2 * PAGE_SIZE / 512);
    hotplug.set_there_len(chunk);
    let error = discard(memory, start, 300 * MIB).unwrap_err();
    assert_eq!((error.kind(), blocks()), (io::ErrorKind::InvalidInput, 2 * PAGE_SIZE / 512));
    hotplug.discard(chunk..300 * MIB).unwrap();
    assert_eq!(blocks(), PAGE_SIZE / 512, "what is still there stays");
    let ends: Vec<_> = hotplug.chunks_in(chunk..300 * MIB).collect();
    assert_eq!(ends, [(2, 2 * chunk), (3, 300 * MIB)]);
}
