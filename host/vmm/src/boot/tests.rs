//! Whole loads, read back as each protocol's kernel reads them.

use proptest::prelude::*;
use vm_memory::GuestMemoryBackend;

use super::testing::{self, ElfFile, KERNEL_ADDR, load as segment, pvh_notes, ram};
use super::*;
use crate::layout::{HIGH_MEMORY, HOLE_END, HOLE_START};
use crate::memory::PAGE_SIZE;

const MIB: u64 = 1 << 20;
const ONE: Vcpus = Vcpus { online: 1, max: 1 };

fn kernel() -> File {
    ElfFile { notes: pvh_notes(KERNEL_ADDR + 4), ..ElfFile::default() }.file()
}

fn u32_at(memory: &Memory, addr: u64) -> u32 {
    memory.read_obj(GuestAddress(addr)).unwrap()
}

fn u64_at(memory: &Memory, addr: u64) -> u64 {
    memory.read_obj(GuestAddress(addr)).unwrap()
}

/// Start, end and kind of the entries at `at`, one each `stride` bytes.
fn map_at(memory: &Memory, at: u64, count: u64, stride: u64) -> Vec<(u64, u64, u32)> {
    let entry = |at| {
        let start = u64_at(memory, at);
        (start, start + u64_at(memory, at + 8), u32_at(memory, at + 16))
    };
    (0..count).map(|index| entry(at + index * stride)).collect()
}

/// The map of the zero page: zero-page.rst, e820_entries at 0x1e8 and e820_table at 0x2d0.
fn e820(memory: &Memory) -> Vec<(u64, u64, u32)> {
    let count: u8 = memory.read_obj(GuestAddress(ZERO_PAGE + 0x1e8)).unwrap();
    map_at(memory, ZERO_PAGE + 0x2d0, u64::from(count), 20)
}

fn text_at(memory: &Memory, addr: u64) -> String {
    let bytes = (addr..).map(|at| memory.read_obj::<u8>(GuestAddress(at)).unwrap());
    String::from_utf8(bytes.take_while(|&byte| byte != 0).collect()).unwrap()
}

fn boot(
    memory: &Memory,
    protocol: Protocol,
    initramfs: Option<&File>,
    command_line: &str,
    vcpus: Vcpus,
) -> Result<Entry, BootError> {
    let images = Images { kernel: &kernel(), initramfs };
    load_by(Some(protocol), memory, &images, command_line, vcpus)
}

#[test]
fn zero_page_says_all_that_linux_needs() {
    let ram = ram(64, 0);
    let memory = ram.guest();
    let content: Vec<u8> = (0..=u8::MAX).cycle().take(5000).collect();
    let initramfs = testing::file(&content);
    let entry = load(
        memory,
        &Images { kernel: &kernel(), initramfs: Some(&initramfs) },
        "console=ttyS0 -- x",
        Vcpus { online: 2, max: 8 },
    )
    .unwrap();
    assert_eq!(entry, Entry { protocol: Protocol::Linux64, address: KERNEL_ADDR + 0x10 });

    // boot.rst, "The Real-Mode Kernel Header".
    assert_eq!(u32_at(memory, ZERO_PAGE + 0x202), 0x5372_6448);
    assert_eq!(u32_at(memory, ZERO_PAGE + 0x1fe) & 0xffff, 0xaa55);
    assert_eq!(u32_at(memory, ZERO_PAGE + 0x206) & 0xffff, 0x020f);
    assert_eq!(u32_at(memory, ZERO_PAGE + 0x210) & 0xffff, 0x01ff);
    let command_line = u32_at(memory, ZERO_PAGE + 0x228);
    let text = text_at(memory, u64::from(command_line));
    assert_eq!(text, "maxcpus=2 console=ttyS0 -- x");
    assert_eq!(u32_at(memory, ZERO_PAGE + 0x238) as usize, text.len());

    let image = u64::from(u32_at(memory, ZERO_PAGE + 0x218));
    assert_eq!(u32_at(memory, ZERO_PAGE + 0x21c), 5000);
    assert_eq!(image, 64 * MIB - 2 * PAGE_SIZE);
    let mut copy = vec![0; 5000];
    memory.read_slice(&mut copy, GuestAddress(image)).unwrap();
    assert!(copy == content);
    let mp_table: [u8; 4] = memory.read_obj(GuestAddress(MP_TABLE)).unwrap();
    assert_eq!(mp_table, *b"_MP_");
}

#[test]
fn hvm_start_info_says_all_that_a_pvh_kernel_needs() {
    let ram = ram(3073, 0);
    let memory = ram.guest();
    let initramfs = testing::file(&[9; 100]);
    let entry = boot(memory, Protocol::Pvh, Some(&initramfs), "quiet", ONE).unwrap();
    assert_eq!(entry, Entry { protocol: Protocol::Pvh, address: KERNEL_ADDR + 4 });
    assert_eq!((u32_at(memory, PVH_INFO), u32_at(memory, PVH_INFO + 4)), (0x336e_c578, 1));
    assert_eq!(text_at(memory, u64_at(memory, PVH_INFO + 24)), "quiet");
    assert_eq!(u64_at(memory, PVH_INFO + 32), 0, "no ACPI");
    assert_eq!(u32_at(memory, PVH_INFO + 12), 1);
    let module = u64_at(memory, PVH_INFO + 16);
    assert_eq!((u64_at(memory, module), u64_at(memory, module + 8)), (HOLE_START - PAGE_SIZE, 100));
    let count = u64::from(u32_at(memory, PVH_INFO + 48));
    let map = map_at(memory, u64_at(memory, PVH_INFO + 40), count, 24);
    boot(memory, Protocol::Linux64, None, "", ONE).unwrap();
    assert_eq!(map, e820(memory), "both protocols tell of the same memory");
}

#[test]
fn memory_map_is_all_memory_of_the_start() {
    for (mib, hotplug_mib, above) in [
        (33, 0, 0),
        (3071, 0, 0),
        (3072, 256, 0),
        (3073, 0, MIB),
        (65536 - 128, 128, 0xf_3800_0000),
    ] {
        let ram = ram(mib, hotplug_mib);
        boot(ram.guest(), Protocol::Linux64, None, "", ONE).unwrap();
        let low_end = (u64::from(mib) * MIB).min(HOLE_START);
        let mut expected =
            vec![(0, MP_TABLE, 1), (MP_TABLE, 0xa_0000, 2), (HIGH_MEMORY, low_end, 1)];
        if above > 0 {
            expected.push((HOLE_END, HOLE_END + above, 1));
        }
        assert_eq!(e820(ram.guest()), expected, "{mib}");
    }
}

#[test]
fn command_line_is_bounded_and_one_line() {
    let ram = ram(32, 0);
    let long = "x".repeat(COMMAND_LINE_MAX - 1);
    boot(ram.guest(), Protocol::Linux64, None, &long, ONE).unwrap();
    assert_eq!(text_at(ram.guest(), COMMAND_LINE), long);
    for (line, vcpus) in [(format!("{long}x"), ONE), (long, Vcpus { online: 1, max: 2 })] {
        let error = boot(ram.guest(), Protocol::Linux64, None, &line, vcpus).unwrap_err();
        assert!(matches!(error, BootError::CommandLineTooLong { max: 2047, .. }), "{error}");
    }
    for line in ["a\0b", "a\nb", "a\x1bb"] {
        let error = boot(ram.guest(), Protocol::Linux64, None, line, ONE).unwrap_err();
        assert!(matches!(error, BootError::CommandLineByte { .. }), "{error}");
    }
}

#[test]
fn numbers_of_processors_that_cannot_be_are_refused() {
    let ram = ram(32, 0);
    for (online, max) in [(0, 1), (0, 0), (2, 1), (1, 33), (33, 33), (255, 255)] {
        let error = boot(ram.guest(), Protocol::Linux64, None, "", Vcpus { online, max });
        assert!(matches!(error, Err(BootError::Vcpus { .. })), "{online} of {max}");
    }
    boot(ram.guest(), Protocol::Linux64, None, "", Vcpus { online: 32, max: 32 }).unwrap();
    assert_eq!(text_at(ram.guest(), COMMAND_LINE), "");
}

#[test]
fn initramfs_fits_to_the_last_page_beside_the_kernel_and_no_more() {
    let ram = ram(32, 0);
    let room = 32 * MIB - (KERNEL_ADDR + 0x3000);
    let initramfs = testing::file(b"");
    for (len, fits) in [(1, true), (room, true), (room + 1, false), (1 << 40, false)] {
        initramfs.set_len(len).unwrap();
        let result = boot(ram.guest(), Protocol::Linux64, Some(&initramfs), "", ONE);
        match result {
            Ok(_) => assert!(fits, "{len}"),
            Err(BootError::Initramfs(InitramfsError::TooLarge { len: of, room: left })) => {
                assert!(!fits && of == len && left == room);
            }
            Err(other) => panic!("{len}: {other}"),
        }
    }
}

#[test]
fn initramfs_that_is_no_file_or_empty_or_cut_off_is_refused() {
    let ram = ram(32, 0);
    for path in ["/", "/dev/zero"] {
        let file = File::open(path).unwrap();
        let error = boot(ram.guest(), Protocol::Linux64, Some(&file), "", ONE).unwrap_err();
        assert!(matches!(error, BootError::Initramfs(InitramfsError::NotRegular)), "{error}");
    }
    let empty = testing::file(b"");
    let error = boot(ram.guest(), Protocol::Linux64, Some(&empty), "", ONE).unwrap_err();
    assert!(matches!(error, BootError::Initramfs(InitramfsError::Empty)), "{error}");

    let file = testing::file(&[1; 8192]);
    let place = initramfs::place(&file, 2 * MIB..32 * MIB).unwrap();
    file.set_len(8191).unwrap();
    let error = initramfs::load(&file, &place, ram.guest()).unwrap_err();
    assert!(matches!(error, InitramfsError::Read(_)), "{error}");
    file.set_len(9000).unwrap();
    initramfs::load(&file, &place, ram.guest()).unwrap();
}

#[test]
fn nothing_is_written_for_images_that_are_refused() {
    let ram = ram(32, 0);
    let too_large = testing::file(b"");
    too_large.set_len(64 * MIB).unwrap();
    boot(ram.guest(), Protocol::Linux64, Some(&too_large), "", ONE).unwrap_err();
    let file = File::from(ram.file().try_clone_to_owned().unwrap());
    assert_eq!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()), 0);
}

#[test]
fn memory_that_lacks_its_start_is_an_error_and_no_panic() {
    let elsewhere = Memory::from_ranges(&[(GuestAddress(HOLE_END), 1 << 20)]).unwrap();
    let error = boot(&elsewhere, Protocol::Linux64, None, "", ONE).unwrap_err();
    assert!(matches!(error, BootError::Kernel(KernelError::OutsideMemory { .. })), "{error}");
    let small = Memory::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
    assert_eq!(small.num_regions(), 1);
    assert!(boot(&small, Protocol::Pvh, None, "", ONE).is_err());
}

#[test]
fn device_words_name_each_slot_and_its_interrupt() {
    assert_eq!(device_words(0), "");
    assert_eq!(
        device_words(2),
        "virtio_mmio.device=0x1000@0xd0000000:5 virtio_mmio.device=0x1000@0xd0001000:6"
    );
    let all = device_words(usize::MAX);
    assert_eq!(all.split(' ').count(), MAX_VIRTIO_DEVICES);
    assert!(all.ends_with("@0xd0012000:23"), "{all}");
    assert!(all.len() < COMMAND_LINE_MAX / 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For every size: the map's entries are in order and apart, none is in the hole, all of the
    /// RAM entries is memory, and kernel, initramfs and parameters are in RAM and apart.
    #[test]
    fn parts_never_overlap(
        mib in 32u32..=65536,
        initramfs_len in 1u64..40 * MIB,
        kernel_len in 1u64..40 * MIB,
    ) {
        let ram = ram(mib, 0);
        let segments = vec![segment(KERNEL_ADDR, kernel_len, b"k")];
        let kernel = ElfFile { entry: KERNEL_ADDR, segments, ..ElfFile::default() }.file();
        let initramfs = testing::file(b"");
        initramfs.set_len(initramfs_len).unwrap();
        let images = Images { kernel: &kernel, initramfs: Some(&initramfs) };
        let result = load(ram.guest(), &images, "", ONE);
        let low_end = (u64::from(mib) * MIB).min(HOLE_START);
        let fits = KERNEL_ADDR + kernel_len + initramfs_len.next_multiple_of(PAGE_SIZE) <= low_end;
        prop_assert_eq!(result.is_ok(), fits);
        if fits {
            let map = e820(ram.guest());
            prop_assert!(map.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            for &(start, end, kind) in map.iter().filter(|entry| entry.2 == memory_map::RAM) {
                prop_assert!(end <= HOLE_START || start >= HOLE_END);
                let len = usize::try_from(end - start).unwrap();
                prop_assert!(ram.guest().check_range(GuestAddress(start), len), "{kind}");
            }
            let image = u64::from(u32_at(ram.guest(), ZERO_PAGE + 0x218));
            prop_assert!(image >= KERNEL_ADDR + kernel_len && image % PAGE_SIZE == 0);
            prop_assert!(image + initramfs_len <= low_end);
        }
    }
}
