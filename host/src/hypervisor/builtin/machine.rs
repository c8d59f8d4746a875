//! The machine that a VM becomes, as its VMM is told. Opens nothing.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use husk_vmm::config::{Config, Devices, Memory, Vcpus, Vsock};
use husk_vmm::rate_limit::Limits;
use husk_vmm::virtio::{balloon, blk};

use super::super::VmConfig;
use super::super::prepare::{Files, OpenDisk};

/// What the kernel is told of every machine.
///
/// - `panic=-1 reboot=k`: a panic ends the machine at once, by the keyboard controller, which is
///   one exit; a triple fault is then a crash.
/// - `pci=off acpi=off`: there is neither, and looking costs time.
/// - `8250.nr_uarts=1`: of four serial ports there is one.
/// - `random.trust_cpu=on`: boot does not wait for entropy that the processor has.
pub const KERNEL_WORDS: [&str; 8] = [
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "reboot=k",
    "acpi=off",
    "pci=off",
    "8250.nr_uarts=1",
    "random.trust_cpu=on",
];

/// What the VMM inherits.
pub struct Descriptors<'a> {
    pub kvm: &'a File,
    pub files: &'a Files,
    pub control: BorrowedFd<'a>,
    pub streams: BorrowedFd<'a>,
    pub console: BorrowedFd<'a>,
}

impl Descriptors<'_> {
    /// All of them.
    pub fn all(&self) -> Vec<BorrowedFd<'_>> {
        let Files { kernel, initramfs, disks, .. } = self.files;
        let files = [self.kvm, kernel, initramfs].map(AsFd::as_fd);
        let wires = [self.control, self.streams, self.console];
        files.into_iter().chain(disks.iter().map(OpenDisk::as_fd)).chain(wires).collect()
    }

    /// The machine.
    pub fn machine(&self, config: &VmConfig) -> Config {
        let Files { kernel, initramfs, disks, .. } = self.files;
        let words = KERNEL_WORDS.iter().copied().map(String::from);
        let count = config.vcpus;
        Config {
            kvm: self.kvm.as_raw_fd(),
            control: self.control.as_raw_fd(),
            kernel: kernel.as_raw_fd(),
            initramfs: Some(initramfs.as_raw_fd()),
            console: Some(self.console.as_raw_fd()),
            command_line: words.chain(config.kernel_args.iter().cloned()).collect(),
            vcpus: Vcpus { online: count, max: count },
            memory: Memory { mib: config.memory_mib, hotplug_mib: 0 },
            start_paused: false,
            devices: Devices {
                disks: disks.iter().map(disk).collect(),
                vsock: Some(self.vsock(config)),
                rng: true,
                // Empty: it gives back what the guest does not use.
                balloon: Some(balloon::Config::default()),
                ..Devices::default()
            },
        }
    }

    fn vsock(&self, config: &VmConfig) -> Vsock {
        let host: RawFd = self.streams.as_raw_fd();
        Vsock { host, guest_cid: config.guest_cid, host_cid: config.host_cid }
    }
}

fn disk(open: &OpenDisk) -> blk::Config {
    blk::Config {
        file: open.file.as_raw_fd(),
        serial: open.serial.clone(),
        read_only: open.read_only,
        disposable: open.disposable,
        engine: blk::EngineKind::default(),
        limits: Limits::default(),
    }
}
