//! Machines that the built-in VMM cannot build: one line says why, at once, and nothing is left.
//! None of these needs a guest that boots; a guest that loops stands for one that never speaks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use husk_tests::guest::init_program;
use husk_tests::run::Output;
use husk_tests::wait::eventually;
use husk_tests::{BUSYBOX, Bed};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, Uid, mkfifo};

/// Where guests are loaded.
const LOAD_ADDR: u64 = 0x10_0000;
/// Loops for ever.
const HANG: [u8; 2] = [0xeb, 0xfe];
/// Makes the interrupt descriptor table empty, and then an exception: lidt [rip]; ud2.
const TRIPLE_FAULT: [u8; 19] =
    [0x0f, 0x01, 0x1d, 0x02, 0, 0, 0, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Fills the serial port: mov dx, 0x3f8; mov al, 'x'; out dx, al; loops.
const FLOOD: [u8; 9] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd];
/// Interrupts off, then halts.
const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

macro_rules! kvm_or_skip {
    () => {
        if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
            eprintln!("SKIPPED: open /dev/kvm: {error}");
            return;
        }
    };
}

/// A kernel of a few instructions: an ELF header, one program header, the code.
fn elf(class: u8, entry: u64, code: &[u8]) -> Vec<u8> {
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file[4] = class;
    file.extend([2_u16, 62].into_iter().flat_map(u16::to_le_bytes));
    file.extend(1_u32.to_le_bytes());
    file.extend([entry, 64, 0].into_iter().flat_map(u64::to_le_bytes));
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 64, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    // PT_LOAD, readable, writable, executable.
    file.extend([1_u32, 7].into_iter().flat_map(u32::to_le_bytes));
    let len = (120 + code.len()) as u64;
    let words = [0, LOAD_ADDR, LOAD_ADDR, len, len, 0x1000];
    file.extend(words.into_iter().flat_map(u64::to_le_bytes));
    file.extend(code);
    file
}

fn kernel(code: &[u8]) -> Vec<u8> {
    elf(2, LOAD_ADDR + 120, code)
}

/// A kernel that never speaks.
pub fn hanging_kernel() -> Vec<u8> {
    kernel(&HANG)
}

/// A guest image of a test's own.
fn guest(bed: &Bed, name: &str, kernel: &[u8]) -> PathBuf {
    let folder = bed.path(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("vmlinux"), kernel).unwrap();
    fs::write(folder.join("initramfs.cpio"), "x").unwrap();
    folder
}

fn run_for(bed: &Bed, guest: &Path, timeout: &str) -> Output {
    let words = ["run", "--rm", "--hypervisor", "kvm", "--progress", "none", BUSYBOX, "true"];
    bed.husk(&words).env("HUSK_GUEST_DIR", guest).env("HUSK_GUEST_TIMEOUT", timeout).output()
}

/// What is wrong is told before the deadline.
fn run(bed: &Bed, guest: &Path) -> Output {
    run_for(bed, guest, "600")
}

#[test]
fn kernels_and_initramfs_that_are_none_are_told() {
    kvm_or_skip!();
    let bed = Bed::new();
    let whole = kernel(&[0x90; 500]);
    for (name, kernel, text) in [
        ("empty", &[][..], "no ELF file"),
        ("text", &[b'x'; 5000], "no ELF file"),
        ("small", &elf(1, LOAD_ADDR + 120, &HANG), "no 64-bit program"),
        ("none", &elf(2, 0, &HANG), "no entry"),
        ("outside", &elf(2, 0x30_0000_0000, &HANG), "entry 0x3000000000"),
        ("head", &whole[..50], "cut off"),
        ("half", &whole[..200], "cut off"),
    ] {
        run(&bed, &guest(&bed, name, kernel)).refused_with(125, &["start VM", text]);
    }
    let large = guest(&bed, "large", &kernel(&HANG));
    fs::File::options()
        .write(true)
        .open(large.join("initramfs.cpio"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    run(&bed, &large).refused_with(125, &["start VM", "the initramfs has 1099511627776 bytes"]);
    let folder = guest(&bed, "folder", &[]);
    fs::remove_file(folder.join("vmlinux")).unwrap();
    fs::create_dir(folder.join("vmlinux")).unwrap();
    run(&bed, &folder).refused_with(125, &["no guest image"]);
    bed.assert_nothing_left();
}

#[test]
fn guests_that_crash_or_never_speak_are_told() {
    kvm_or_skip!();
    let bed = Bed::new();
    for (name, code, timeout, text) in [
        ("crash", &TRIPLE_FAULT[..], "600", "triple fault"),
        ("hang", &HANG, "2", "did not answer within 2 s"),
        ("halt", &HALT, "2", "did not answer within 2 s"),
        ("flood", &FLOOD, "2", "did not answer within 2 s"),
    ] {
        let output = run_for(&bed, &guest(&bed, name, &kernel(code)), timeout);
        let line = output.refused_with(125, &[text, "built-in VMM"]);
        assert!(line.len() < 1000, "{line}");
    }
    bed.assert_nothing_left();
}

/// Its writable disk is what `change` makes of it.
fn refused_disk(bed: &Bed, guest: &Path, change: impl Fn(&Path), text: &str) {
    bed.husk(&["create", "--name", "box", "--hypervisor", "kvm", BUSYBOX, "true"]).ok();
    let disk = PathBuf::from(bed.inspect("box")["Husk"]["Disk"].as_str().unwrap());
    fs::remove_file(&disk).unwrap();
    change(&disk);
    let start = bed.husk(&["start", "-a", "box"]).env("HUSK_GUEST_DIR", guest);
    start.output().refused_with(125, &["start VM", "disk", text]);
    assert_eq!(bed.state("box").as_deref(), Some("created"));
    bed.husk(&["rm", "box"]).ok();
    bed.assert_nothing_left();
}

#[test]
fn disk_that_is_gone_or_no_file_is_told_and_waited_for_by_nobody() {
    kvm_or_skip!();
    let bed = Bed::new();
    let guest = guest(&bed, "guest", &kernel(&HANG));
    refused_disk(&bed, &guest, |_| (), "No such file");
    refused_disk(&bed, &guest, |disk| fs::create_dir(disk).unwrap(), "directory");
    refused_disk(&bed, &guest, |disk| mkfifo(disk, Mode::S_IRWXU).unwrap(), "no regular file");
    refused_disk(&bed, &guest, |disk| symlink("/dev/zero", disk).unwrap(), "no regular file");
    refused_disk(
        &bed,
        &guest,
        |disk| fs::write(disk, "").unwrap(),
        "block device: disk disk: use a file as a disk: it is empty",
    );
    // The image's, too, which is only read.
    let images = bed.data().join("images");
    let mut folders = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path());
    let image =
        folders.find_map(|folder| Some(folder.join("disk.erofs")).filter(|path| path.is_file()));
    let image = image.unwrap();
    let kept = bed.path("kept");
    fs::rename(&image, &kept).unwrap();
    mkfifo(&image, Mode::S_IRWXU).unwrap();
    run(&bed, &guest).refused_with(125, &["start VM", "disk.erofs", "no regular file"]);
    fs::remove_file(&image).unwrap();
    fs::rename(&kept, &image).unwrap();
    bed.assert_nothing_left();
}

/// Runs as root of a mount namespace in which `/dev/kvm` is another file.
fn with_kvm(bed: &Bed, guest: &Path, other: &str) -> Output {
    let as_root = if Uid::effective().is_root() { "-m" } else { "-rm" };
    let script = "mount --bind \"$K\" /dev/kvm && \
                  \"$H\" run --rm --hypervisor kvm --progress none busybox:latest true";
    let run = bed.program("unshare", &[as_root, "sh", "-c", script]).env("H", bed.bin());
    run.env("K", other).env("HUSK_GUEST_DIR", guest).output()
}

#[test]
fn kvm_that_is_something_else_is_told_with_what_to_do() {
    kvm_or_skip!();
    let bed = Bed::new();
    let guest = guest(&bed, "guest", &kernel(&HANG));
    let file = guest.join("vmlinux").display().to_string();
    for (other, advice) in
        [("/dev/null", "dmesg"), (file.as_str(), "/dev/kvm is no device (remove it")]
    {
        let output = with_kvm(&bed, &guest, other);
        output.refused_with(125, &["choose hypervisor kvm", "/dev/kvm", advice]);
    }
    bed.assert_nothing_left();
}

#[test]
fn sizes_that_cannot_be_are_told() {
    kvm_or_skip!();
    let bed = Bed::new();
    let guest = guest(&bed, "guest", &kernel(&HANG));
    for (flag, value, text) in [
        ("--cpus", "0", "cpus"),
        ("--cpus", "1000", "cpus"),
        ("--memory", "1m", "at least"),
        ("--memory", "1000000g", "MiB of memory"),
    ] {
        let words = ["run", "--rm", "--hypervisor", "kvm", flag, value, BUSYBOX, "true"];
        bed.husk(&words).env("HUSK_GUEST_DIR", &guest).output().refused_with(125, &[text]);
    }
    bed.assert_nothing_left();
}

/// The monitor serves others while its VMM answers nothing.
#[test]
fn container_whose_vmm_is_stopped_can_be_killed() {
    kvm_or_skip!();
    let bed = Bed::new();
    let guest = guest(&bed, "guest", &kernel(&HANG));
    let words = ["run", "-d", "--name", "box", "--hypervisor", "kvm", BUSYBOX, "true"];
    // Nor does the deadline of its boot come first.
    let run = bed.husk(&words).env("HUSK_GUEST_DIR", &guest).env("HUSK_GUEST_TIMEOUT", "600");
    let run = run.spawn();
    let vmm = eventually("a VMM runs", || bed.vmms().pop());
    kill(Pid::from_raw(vmm.pid), Signal::SIGSTOP).unwrap();
    bed.husk(&["rm", "-f", "box"]).ok();
    let line = run.wait().refused(125);
    assert!(line.contains("stopped before it ran"), "{line}");
    bed.assert_nothing_left();
}

/// The monitor listens before the guest's first instruction.
#[test]
fn guest_that_speaks_at_once_is_heard_and_its_nonsense_refused() {
    kvm_or_skip!();
    let bed = Bed::new();
    let guest = guest(&bed, "guest", &fs::read(init_program("bare-metal")).unwrap());
    for _ in 0..5 {
        let words = ["run", "--hypervisor", "kvm", "--name", "box", "--progress", "none"];
        let kernel = ["--kernel-arg", "case=vsock-echo", "--kernel-arg", "port=1024"];
        let words = [&words[..], &kernel, &[BUSYBOX, "true"]].concat();
        let run = bed.husk(&words).env("HUSK_GUEST_DIR", &guest);
        run.output().refused_with(125, &["the guest's user space was running"]);
        let log = bed.inspect("box")["Husk"]["ConsoleLog"].as_str().unwrap().to_owned();
        let console = fs::read_to_string(log).unwrap();
        // It was connected, and then let go of.
        assert!(console.contains("after 0 bytes"), "{console}");
        bed.husk(&["rm", "box"]).ok();
    }
    bed.assert_nothing_left();
}
