//! A running QEMU: its process and its vsock device. Ends all of it when dropped.

use std::io;
use std::os::fd::BorrowedFd;
use std::process::ExitStatus;

use husk_vmm::vhost_user::{Progress, Server};
use husk_vmm::vsock::VsockHandle;

use super::super::process::VmmProcess;
use super::super::{BootPhase, Diagnosis, Vm};

/// See the module.
#[derive(Debug)]
pub struct QemuVm {
    process: VmmProcess,
    device: Server,
}

impl QemuVm {
    /// Takes over a QEMU that was just started.
    pub fn new(process: VmmProcess, device: Server) -> Self {
        Self { process, device }
    }

    fn phase(&self) -> BootPhase {
        match self.device.progress() {
            Progress::Packet => BootPhase::UserSpace,
            Progress::Driver => BootPhase::Drivers,
            _ if self.process.has_printed() => BootPhase::Kernel,
            Progress::FrontEnd => BootPhase::Machine,
            Progress::Nothing => BootPhase::Process,
        }
    }
}

impl Vm for QemuVm {
    fn vsock(&self) -> &VsockHandle {
        self.device.handle()
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn exit_fd(&self) -> BorrowedFd<'_> {
        self.process.exit_fd()
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    fn kill(&mut self) -> io::Result<ExitStatus> {
        self.process.kill()
    }

    fn diagnose(&mut self) -> Diagnosis {
        if self.device.lost_guest() {
            self.process.await_exit();
        }
        self.process.diagnose(self.phase())
    }
}
