//! QEMU's argument vector, made from typed values only. Starts nothing.
//!
//! Names of files never become option strings: disks are open descriptors, and the kernel and the
//! initramfs are arguments of their own.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::super::prepare::OpenDisk;
use super::super::{Accelerator, VmConfig, VmError};

/// Measured otherwise, 250 ms for each processor but the first. Of no use once the kernel knows its
/// time stamp counter, by which it then delays.
const LOOPS_PER_JIFFY: u32 = 10_000_000;

/// The most bytes of a kernel's command line. COMMAND_LINE_SIZE of x86, without its zero.
const COMMAND_LINE_MAX: usize = husk_vmm::layout::COMMAND_LINE_MAX - 1;
/// What QEMU adds for each device, at most: ` virtio_mmio.device=512@0xfeb00e00:12`.
const DEVICE_WORD_BYTES: usize = 40;

/// What the arguments are made from.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The VM.
    pub config: &'a VmConfig,
    /// What executes it.
    pub accelerator: Accelerator,
    /// Rate of the host's time stamp counter.
    pub tsc_khz: Option<u32>,
    /// Its disks, in the order of `config`.
    pub disks: &'a [OpenDisk],
    /// QEMU's end of the vhost-user socket.
    pub vsock: BorrowedFd<'a>,
}

impl Machine<'_> {
    /// The arguments, without the program's name. Descriptors appear under their own numbers.
    ///
    /// # Errors
    /// [`VmError::CommandLine`]: the guest's kernel would hang without a word.
    pub fn arguments(&self) -> Result<Vec<OsString>, VmError> {
        // Beside the disks, vsock and entropy.
        let added = (self.disks.len() + 2) * DEVICE_WORD_BYTES;
        let len = self.kernel_command_line().len() + added;
        if len > COMMAND_LINE_MAX {
            return Err(VmError::CommandLine { len, max: COMMAND_LINE_MAX });
        }
        let mut list = Arguments(Vec::new());
        self.isolation(&mut list);
        self.board(&mut list);
        self.boot(&mut list);
        self.devices(&mut list);
        for (index, disk) in self.disks.iter().enumerate() {
            add_disk(&mut list, index, disk);
        }
        Ok(list.0)
    }

    /// Nothing that was not asked for, and no way to get it later.
    fn isolation(&self, list: &mut Arguments) {
        list.flag("-nodefaults");
        list.flag("-no-user-config");
        list.option("-display", "none");
        list.option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        list.flag("-no-reboot");
    }

    fn board(&self, list: &mut Arguments) {
        // Timer, interrupt controller and clock of a PC: without them a translated guest hangs
        // where it measures time. Option ROMs are for firmware that boots from disks.
        let legacy = match self.accelerator {
            Accelerator::Tcg => "pit=on,pic=on,rtc=on",
            Accelerator::Kvm => "pit=off,pic=off,rtc=on",
        };
        let memory = self.config.memory_mib;
        list.option(
            "-machine",
            // Without ACPI tables the timer's interrupt is where a PC has it (with them the kernel
            // looks for it in vain once it has no local timer), and so is the serial port.
            format!(
                "microvm,{legacy},acpi=off,isa-serial=on,x-option-roms=off,memory-backend=memory"
            ),
        );
        list.option("-accel", self.accelerator.to_string());
        list.option(
            "-cpu",
            match self.accelerator {
                Accelerator::Tcg => "max",
                Accelerator::Kvm => "host",
            },
        );
        list.option("-smp", self.config.vcpus.to_string());
        list.option("-m", format!("{memory}M"));
        // Shared with the vsock device, and sealed: memory that could shrink is refused there.
        list.option(
            "-object",
            format!("memory-backend-memfd,id=memory,size={memory}M,share=on,seal=on"),
        );
    }

    fn boot(&self, list: &mut Arguments) {
        list.option("-kernel", &self.config.kernel);
        list.option("-initrd", &self.config.initramfs);
        list.option("-append", self.kernel_command_line());
    }

    fn kernel_command_line(&self) -> String {
        // A panic, a halt and a reboot all end QEMU, by -no-reboot and a triple fault.
        // The machine has neither ACPI nor PCI: nothing is looked for.
        let mut words: Vec<String> =
            ["console=ttyS0", "quiet", "panic=-1", "reboot=t", "acpi=off", "pci=off"]
                .map(String::from)
                .to_vec();
        if self.accelerator == Accelerator::Tcg {
            words.extend(self.translated_words());
        }
        words.extend(self.config.kernel_args.iter().cloned());
        words.join(" ")
    }

    /// A translated guest cannot measure: its reads take as long as the host pleases, and on a
    /// busy host it would find no clock at all and hang. It is told, or told not to ask.
    fn translated_words(&self) -> Vec<String> {
        let mut words = vec![format!("lpj={LOOPS_PER_JIFFY}"), "no_timer_check".into()];
        if let Some(khz) = self.tsc_khz {
            words.push(format!("tsc_early_khz={khz}"));
            words.push("tsc=reliable".into());
        }
        // No processor is there that would have flaws.
        words.push("mitigations=off".into());
        if self.config.vcpus == 1 {
            // Saves the calibration of the local timer, 130 ms; the PC's timer does its work. With
            // more processors that would cost the others their precise timers.
            words.push("noapictimer".into());
        } else {
            // Else each grace period, as in unmount and in the end of a cgroup, takes milliseconds.
            words.push("rcupdate.rcu_expedited=1".into());
        }
        words
    }

    fn devices(&self, list: &mut Arguments) {
        list.option("-chardev", "stdio,id=console,signal=off");
        list.option("-serial", "chardev:console");
        let socket = self.vsock.as_raw_fd();
        list.option("-chardev", format!("socket,id=vsock,fd={socket}"));
        list.option("-device", "vhost-user-vsock-device,chardev=vsock");
        list.option("-object", "rng-builtin,id=rng");
        list.option("-device", "virtio-rng-device,rng=rng");
    }
}

/// The image as a descriptor set, so that no name is parsed and no path looked up.
fn add_disk(list: &mut Arguments, index: usize, disk: &OpenDisk) {
    let OpenDisk { file, serial, read_only, disposable } = disk;
    let fd = file.as_raw_fd();
    let switch = |on: bool| if on { "on" } else { "off" };
    let (read_only, no_flush) = (switch(*read_only), switch(*disposable));
    list.option("-add-fd", format!("fd={fd},set={index}"));
    list.option(
        "-blockdev",
        format!(
            "driver=file,node-name=file{index},filename=/dev/fdset/{index},\
             read-only={read_only},auto-read-only=off,discard=unmap,aio=threads,\
             cache.no-flush={no_flush}"
        ),
    );
    list.option(
        "-blockdev",
        format!(
            "driver=raw,node-name=disk{index},file=file{index},read-only={read_only},discard=unmap,\
             cache.no-flush={no_flush}"
        ),
    );
    // A host without space is an error in the guest; the default stops the whole machine.
    list.option(
        "-device",
        format!("virtio-blk-device,drive=disk{index},serial={serial},werror=report,rerror=report"),
    );
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    fn config() -> VmConfig {
        VmConfig {
            kernel: "/a,b/vmlinux".into(),
            initramfs: "/a,b/initramfs".into(),
            kernel_args: vec!["debug".into()],
            vcpus: 3,
            memory_mib: 256,
            disks: vec![],
            guest_cid: 3,
            host_cid: 2,
            console_log: "/log".into(),
        }
    }

    fn arguments(accelerator: Accelerator, read_only: bool) -> (Vec<String>, i32) {
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let disks = [OpenDisk { file, serial: "root".into(), read_only, disposable: !read_only }];
        let vsock = File::open("/dev/null").unwrap();
        let config = config();
        let machine = Machine {
            config: &config,
            accelerator,
            tsc_khz: Some(2_600_000),
            disks: &disks,
            vsock: vsock.as_fd(),
        };
        let list = machine.arguments().unwrap().into_iter().map(|word| word.into_string().unwrap());
        (list.collect(), fd)
    }

    fn values<'a>(list: &'a [String], option: &str) -> Vec<&'a str> {
        list.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn paths_are_arguments_of_their_own() {
        let (list, _) = arguments(Accelerator::Tcg, true);
        assert_eq!(values(&list, "-kernel"), ["/a,b/vmlinux"]);
        assert_eq!(values(&list, "-initrd"), ["/a,b/initramfs"]);
    }

    #[test]
    fn command_line_that_is_too_long_for_the_kernel_is_refused() {
        let vsock = File::open("/dev/null").unwrap();
        let refused = |len| {
            let config = VmConfig { kernel_args: vec!["x".repeat(len)], ..config() };
            let (accelerator, vsock) = (Accelerator::Kvm, vsock.as_fd());
            let machine =
                Machine { config: &config, accelerator, tsc_khz: None, disks: &[], vsock };
            machine.arguments().err().map(|error| error.to_string())
        };
        assert_eq!(refused(1500), None);
        let error = refused(2000).unwrap();
        assert!(error.starts_with("start VM: the kernel's command line has 2"), "{error}");
    }

    #[test]
    fn read_only_disk_is_read_only_at_every_level() {
        let (list, fd) = arguments(Accelerator::Tcg, true);
        assert_eq!(values(&list, "-add-fd"), [format!("fd={fd},set=0")]);
        let nodes = values(&list, "-blockdev");
        assert_eq!(nodes.len(), 2);
        assert!(nodes.iter().all(|node| node.contains("read-only=on")), "{nodes:?}");
        let (list, _) = arguments(Accelerator::Tcg, false);
        let nodes = values(&list, "-blockdev");
        assert!(nodes.iter().all(|node| node.contains("read-only=off")), "{nodes:?}");
        assert!(nodes.iter().all(|node| node.contains("discard=unmap")), "{nodes:?}");
    }

    #[test]
    fn failed_write_on_the_host_is_the_guests_to_deal_with() {
        let (list, _) = arguments(Accelerator::Tcg, false);
        let devices = values(&list, "-device");
        let disk = devices.iter().find(|device| device.starts_with("virtio-blk")).unwrap();
        assert!(disk.ends_with("werror=report,rerror=report"), "{disk}");
    }

    #[test]
    fn only_a_disposable_disk_is_not_flushed() {
        for (read_only, no_flush) in [(true, "cache.no-flush=off"), (false, "cache.no-flush=on")] {
            let (list, _) = arguments(Accelerator::Tcg, read_only);
            let nodes = values(&list, "-blockdev");
            assert!(nodes.iter().all(|node| node.contains(no_flush)), "{nodes:?}");
        }
    }

    #[test]
    fn translated_guest_is_told_the_rate_of_its_counter() {
        let (list, _) = arguments(Accelerator::Tcg, true);
        assert_eq!(values(&list, "-accel"), ["tcg"]);
        let line = values(&list, "-append")[0];
        assert!(line.contains("tsc_early_khz=2600000 tsc=reliable"), "{line}");
        assert!(line.ends_with(" debug"), "{line}");
        // Of 3 processors.
        assert!(!line.contains("noapictimer"), "{line}");
        let (list, _) = arguments(Accelerator::Kvm, true);
        assert_eq!(values(&list, "-accel"), ["kvm"]);
        assert_eq!(values(&list, "-cpu"), ["host"]);
        assert!(!values(&list, "-append")[0].contains("tsc"), "{list:?}");
    }
}
