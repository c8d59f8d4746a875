//! QEMU's `microvm` machine, on KVM or translated. Its vsock device is ours, over vhost-user: no
//! `/dev/vhost-vsock` and no root is needed.

mod arguments;
mod vm;

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use husk_vmm::vhost_user;
use husk_vmm::vsock;

use super::prepare::{Files, OpenDisk, prepare};
use super::process::VmmProcess;
use super::{Accelerator, ChooseError, Hypervisor, Vm, VmConfig, VmError};
use crate::sys::process;
use arguments::Machine;
use vm::QemuVm;

/// Debian: package qemu-system-x86.
const PROGRAM: &str = "qemu-system-x86_64";

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
            .args(machine.arguments()?)
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

    fn launch(&self, config: &VmConfig) -> Result<Box<dyn Vm>, VmError> {
        // QEMU opens kernel and initramfs itself; its own words for a missing one are worse.
        let Files { disks, console_log, .. } = prepare(config)?;
        let (ours, theirs) = UnixStream::pair().map_err(VmError::Vsock)?;
        let device = vhost_user::serve(vsock_config(config), ours).map_err(VmError::Vsock)?;
        let mut child = self.spawn(config, &disks, &theirs)?;
        // Ours, or the device would never see QEMU's end of the socket close.
        drop(theirs);
        let run_error = |source| VmError::Run { program: self.program.clone(), source };
        let stdout = child.stdout.take();
        let mut process = VmmProcess::new("qemu", child).map_err(run_error)?;
        let stdout = stdout.ok_or_else(|| run_error(std::io::ErrorKind::NotFound.into()))?;
        process.capture(stdout, console_log).map_err(run_error)?;
        Ok(Box::new(QemuVm::new(process, device)))
    }
}

fn vsock_config(config: &VmConfig) -> vsock::Config {
    vsock::Config {
        guest_cid: u64::from(config.guest_cid),
        host_cid: u64::from(config.host_cid),
        limits: vsock::Limits::default(),
    }
}

#[cfg(test)]
mod tests;
