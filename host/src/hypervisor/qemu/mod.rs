//! QEMU's `microvm` machine, on KVM or translated. Its vsock device is ours, over vhost-user: no
//! `/dev/vhost-vsock` and no root is needed.

mod arguments;
mod vm;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use husk_vmm::vhost_user;
use husk_vmm::vsock;

use super::console::{Capture, RotatingFile};
use super::{Accelerator, ChooseError, Disk, Hypervisor, MAX_SERIAL_LEN, Vm, VmConfig, VmError};
use crate::sys::process;
use arguments::{Machine, OpenDisk};
use vm::QemuVm;

/// Debian: package qemu-system-x86.
const PROGRAM: &str = "qemu-system-x86_64";
/// Of the console in memory.
const CONSOLE_TAIL_BYTES: usize = 256 << 10;
/// Of each of the console's two files.
const CONSOLE_FILE_BYTES: u64 = 1 << 20;
/// Of QEMU's standard error in memory.
const STDERR_TAIL_BYTES: usize = 16 << 10;

/// QEMU in PATH.
///
/// # Errors
/// [`ChooseError::NoQemu`].
pub fn find_program() -> Result<PathBuf, ChooseError> {
    find_in(&std::env::var_os("PATH").unwrap_or_default())
        .ok_or(ChooseError::NoQemu { program: PROGRAM })
}

fn find_in(path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(PROGRAM)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// A QEMU that was found.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    accelerator: Accelerator,
    tsc_khz: Option<u32>,
}

impl Qemu {
    /// `tsc_khz` is the rate of the host's time stamp counter, which a translated guest sees and
    /// cannot measure.
    #[must_use]
    pub fn new(program: PathBuf, accelerator: Accelerator, tsc_khz: Option<u32>) -> Self {
        Self { program, accelerator, tsc_khz }
    }

    fn spawn(
        &self,
        config: &VmConfig,
        disks: &[OpenDisk],
        vsock: &UnixStream,
    ) -> Result<std::process::Child, VmError> {
        let machine = Machine {
            config,
            accelerator: self.accelerator,
            tsc_khz: self.tsc_khz,
            disks,
            vsock: vsock.as_fd(),
        };
        let mut command = Command::new(&self.program);
        command
            .args(machine.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let disk_files = disks.iter().map(|disk| disk.file.as_fd());
        let keep: Vec<BorrowedFd<'_>> = disk_files.chain([vsock.as_fd()]).collect();
        process::spawn_bound(&mut command, &keep)
            .map_err(|source| VmError::Run { program: self.program.clone(), source })
    }
}

impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn start(&self, config: &VmConfig) -> Result<Box<dyn Vm>, VmError> {
        check(config)?;
        let disks = config.disks.iter().map(open_disk).collect::<Result<Vec<_>, _>>()?;
        let log = RotatingFile::create(&config.console_log, CONSOLE_FILE_BYTES)
            .map_err(open_error("console log", &config.console_log))?;
        let (ours, theirs) = UnixStream::pair().map_err(VmError::Vsock)?;
        let device = vhost_user::serve(vsock_config(config), ours).map_err(VmError::Vsock)?;
        let child = self.spawn(config, &disks, &theirs)?;
        // Ours, or the device would never see QEMU's end of the socket close.
        drop(theirs);
        let run_error = |source| VmError::Run { program: self.program.clone(), source };
        let mut vm = QemuVm::new(child, device).map_err(run_error)?;
        vm.capture(|stdout, stderr| {
            Ok((
                Capture::start("console", stdout, CONSOLE_TAIL_BYTES, Some(log))?,
                Capture::start("vmm-stderr", stderr, STDERR_TAIL_BYTES, None)?,
            ))
        })
        .map_err(run_error)?;
        Ok(Box::new(vm))
    }
}

fn vsock_config(config: &VmConfig) -> vsock::Config {
    vsock::Config {
        guest_cid: u64::from(config.guest_cid),
        host_cid: u64::from(config.host_cid),
        limits: vsock::Limits::default(),
    }
}

fn check(config: &VmConfig) -> Result<(), VmError> {
    if config.vcpus == 0 || config.memory_mib == 0 {
        return Err(VmError::Size { vcpus: config.vcpus, memory_mib: config.memory_mib });
    }
    for disk in &config.disks {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let len = disk.serial.len();
        if len == 0 || len > MAX_SERIAL_LEN || !disk.serial.chars().all(plain) {
            return Err(VmError::Serial { serial: disk.serial.clone() });
        }
    }
    // QEMU opens these itself; its own words for a missing one are worse.
    File::open(&config.kernel).map_err(open_error("kernel", &config.kernel))?;
    File::open(&config.initramfs).map_err(open_error("initramfs", &config.initramfs))?;
    Ok(())
}

fn open_disk(disk: &Disk) -> Result<OpenDisk, VmError> {
    let file = File::options()
        .read(true)
        .write(!disk.read_only)
        .open(&disk.path)
        .map_err(open_error("disk", &disk.path))?;
    Ok(OpenDisk {
        file,
        serial: disk.serial.clone(),
        read_only: disk.read_only,
        disposable: disk.disposable,
    })
}

fn open_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VmError {
    let path = path.to_owned();
    move |source| VmError::Open { what, path, source }
}

#[cfg(test)]
mod tests;
