//! What every hypervisor does before it starts a VM: looks at the configuration and opens its
//! files. Starts nothing.
//!
//! A writable disk is locked by its descriptor, which the VM inherits: no two VMs ever write to
//! one, not even for the moment in which one still dies whose monitor was killed.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use husk_vmm::boot::MAX_VCPUS;
use husk_vmm::config::is_plain;
use husk_vmm::memory::{self, Size};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::console::RotatingFile;
use super::{Disk, MAX_SERIAL_LEN, VmConfig, VmError};
use crate::sys::lock;

/// Of each of the console's two files.
pub const CONSOLE_FILE_BYTES: u64 = 1 << 20;

/// What a VM whose monitor was killed may take until it is gone.
const LAST_VM_GRACE: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A disk, open as it is to be used.
#[derive(Debug)]
pub struct OpenDisk {
    /// The image.
    pub file: File,
    /// By what the guest finds it, plain characters.
    pub serial: String,
    /// Whether the device refuses writes.
    pub read_only: bool,
    /// Whether its flushes are for nothing.
    pub disposable: bool,
}

/// The files of a VM, open.
#[derive(Debug)]
pub struct Files {
    pub kernel: File,
    pub initramfs: File,
    pub disks: Vec<OpenDisk>,
    pub console_log: RotatingFile,
}

/// Opens what a VM is made of, if there can be such a VM.
///
/// # Errors
/// [`VmError`]: the first thing that is wrong.
pub fn prepare(config: &VmConfig) -> Result<Files, VmError> {
    check(config)?;
    Ok(Files {
        kernel: open("kernel", &config.kernel, false)?,
        initramfs: open("initramfs", &config.initramfs, false)?,
        disks: config.disks.iter().map(open_disk).collect::<Result<_, _>>()?,
        console_log: RotatingFile::create(&config.console_log, CONSOLE_FILE_BYTES)
            .map_err(open_error("console log", &config.console_log))?,
    })
}

fn check(config: &VmConfig) -> Result<(), VmError> {
    let VmConfig { vcpus, memory_mib, disks, .. } = config;
    if !(1..=u32::from(MAX_VCPUS)).contains(vcpus) {
        return Err(VmError::Vcpus { vcpus: *vcpus });
    }
    memory::check(Size { mib: *memory_mib, hotplug_mib: 0 }).map_err(VmError::Memory)?;
    let mut serials = HashSet::new();
    for Disk { serial, .. } in disks {
        if !is_plain(serial, MAX_SERIAL_LEN) {
            return Err(VmError::Serial { serial: serial.clone() });
        }
        if !serials.insert(serial) {
            return Err(VmError::Twice { serial: serial.clone() });
        }
    }
    Ok(())
}

/// A folder opens as well as a file does, and serves nobody. The other end of a pipe is not waited
/// for.
fn open(what: &'static str, path: &Path, writable: bool) -> Result<File, VmError> {
    let open = || -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(writable).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("no regular file"));
        }
        // Requests for a file's blocks are to wait for them.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(file)
    };
    open().map_err(open_error(what, path))
}

fn open_disk(disk: &Disk) -> Result<OpenDisk, VmError> {
    let file = open("disk", &disk.path, !disk.read_only)?;
    if !disk.read_only {
        claim(&file).map_err(open_error("disk", &disk.path))?;
    }
    Ok(OpenDisk {
        file,
        serial: disk.serial.clone(),
        read_only: disk.read_only,
        disposable: disk.disposable,
    })
}

/// Blocks for the grace of the VM that had it last.
fn claim(disk: &File) -> io::Result<()> {
    let until = Instant::now() + LAST_VM_GRACE;
    while !lock::try_lock(disk)? {
        if Instant::now() > until {
            return Err(io::Error::other("another VM writes to it"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Names the file.
pub fn open_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VmError {
    let path = path.to_owned();
    move |source| VmError::Open { what, path, source }
}

impl OpenDisk {
    /// For who inherits it.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::path::PathBuf;

    use super::super::testing;
    use super::*;

    fn disk(serial: &str, path: PathBuf) -> Disk {
        Disk { serial: serial.into(), path, read_only: true, disposable: false }
    }

    #[test]
    fn files_that_are_missing_or_folders_are_named() {
        let (folder, config) = testing::config();
        let missing = folder.path().join("missing");
        for path in [missing.clone(), folder.path().to_owned()] {
            for (config, what) in [
                (VmConfig { kernel: path.clone(), ..config.clone() }, "kernel"),
                (VmConfig { initramfs: path.clone(), ..config.clone() }, "initramfs"),
                (VmConfig { disks: vec![disk("root", path.clone())], ..config.clone() }, "disk"),
                (VmConfig { console_log: path.join("log/log"), ..config.clone() }, "console log"),
            ] {
                let error = prepare(&config).unwrap_err();
                assert!(error.to_string().contains(what), "{error}");
                assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
                assert!(error.source().is_some());
            }
        }
    }

    #[test]
    fn pipe_whose_other_end_nobody_opens_is_refused_at_once() {
        let (folder, config) = testing::config();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for read_only in [true, false] {
            let disks = vec![Disk { read_only, ..disk("root", pipe.clone()) }];
            let error = prepare(&VmConfig { disks, ..config.clone() }).unwrap_err();
            assert_eq!(error.source().unwrap().to_string(), "no regular file");
        }
        // Who reads a disk is never told to come again later.
        let disks = vec![disk("root", config.kernel.clone())];
        let files = prepare(&VmConfig { disks, ..config }).unwrap();
        let flags = fcntl(&files.disks[0].file, FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn disk_is_written_to_by_one_vm_until_that_is_gone() {
        let (folder, config) = testing::config();
        let path = folder.path().join("disk");
        File::create(&path).unwrap();
        let writable = Disk { read_only: false, ..disk("data", path.clone()) };
        let config = VmConfig { disks: vec![writable], ..config };
        let files = prepare(&config).unwrap();
        let mut sleep = std::process::Command::new("sleep");
        let kept = [files.disks[0].as_fd()];
        let mut vm = crate::sys::process::spawn_bound(sleep.arg("1000"), &kept).unwrap();
        drop(files);
        let error = prepare(&config).unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), "another VM writes to it");
        // Many may read it.
        prepare(&VmConfig { disks: vec![disk("data", path)], ..config.clone() }).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| prepare(&config).map(drop));
            vm.kill().unwrap();
            vm.wait().unwrap();
            next.join().unwrap().unwrap();
        });
    }

    #[test]
    fn serials_that_could_be_options_are_too_long_or_appear_twice_are_refused() {
        let (_folder, config) = testing::config();
        for serial in ["", "a,b", "a=b", "a b", "ä", "123456789012345678901"] {
            let disks = vec![disk(serial, config.kernel.clone())];
            let error = prepare(&VmConfig { disks, ..config.clone() }).unwrap_err();
            assert!(matches!(&error, VmError::Serial { serial: s } if s == serial), "{error}");
        }
        let disks = vec![disk("a", config.kernel.clone()), disk("a", config.initramfs.clone())];
        let error = prepare(&VmConfig { disks, ..config }).unwrap_err();
        assert!(matches!(error, VmError::Twice { .. }), "{error}");
    }

    #[test]
    fn vm_of_no_size_or_of_too_much_is_refused() {
        let (_folder, config) = testing::config();
        for vcpus in [0, 33, 1000] {
            let error = prepare(&VmConfig { vcpus, ..config.clone() }).unwrap_err();
            assert!(matches!(error, VmError::Vcpus { .. }), "{error}");
        }
        for memory_mib in [0, 31, u32::MAX] {
            let error = prepare(&VmConfig { memory_mib, ..config.clone() }).unwrap_err();
            assert!(matches!(error, VmError::Memory(_)), "{error}");
        }
    }
}
