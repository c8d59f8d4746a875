//! A running QEMU: its process and its vsock device. Ends all of it when dropped.

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

    fn phase(progress: Progress, has_printed: bool) -> BootPhase {
        match progress {
            Progress::Packet => BootPhase::UserSpace,
            Progress::Driver => BootPhase::Drivers,
            _ if has_printed => BootPhase::Kernel,
            Progress::FrontEnd => BootPhase::Machine,
            Progress::Nothing => BootPhase::Process,
        }
    }
}

impl Vm for QemuVm {
    fn vsock(&self) -> &VsockHandle {
        self.device.handle()
    }

    fn process(&self) -> &VmmProcess {
        &self.process
    }

    fn process_mut(&mut self) -> &mut VmmProcess {
        &mut self.process
    }

    fn diagnose(&mut self) -> Diagnosis {
        if self.device.lost_guest() {
            self.process.await_exit();
        }
        let progress = self.device.progress();
        self.process.diagnose(|has_printed| Self::phase(progress, has_printed))
    }
}
