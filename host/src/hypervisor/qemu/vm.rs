//! A running QEMU: its process, its vsock device, what it prints. Ends all of it when dropped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus};

use husk_vmm::vhost_user::{Progress, Server};
use husk_vmm::vsock::VsockHandle;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::console::Capture;
use super::super::{BootPhase, Diagnosis, Vm};
use crate::sys::process;

/// Lines of the console and of standard error in a diagnosis; a panic prints about 30.
const DIAGNOSIS_LINES: usize = 40;

/// Between the end of the guest and of QEMU's process.
const EXIT_GRACE_MS: u16 = 500;

/// See the module.
#[derive(Debug)]
pub struct QemuVm {
    child: Child,
    pidfd: OwnedFd,
    device: Server,
    output: Option<Output>,
}

#[derive(Debug)]
struct Output {
    console: Capture,
    stderr: Capture,
}

impl QemuVm {
    /// Takes over a QEMU that was just started.
    ///
    /// # Errors
    /// Those of pidfd_open(2); QEMU is gone then.
    pub fn new(mut child: Child, device: Server) -> io::Result<Self> {
        match process::pidfd(&child) {
            Ok(pidfd) => Ok(Self { child, pidfd, device, output: None }),
            Err(error) => {
                end(&mut child)?;
                Err(error)
            }
        }
    }

    /// Starts to read what QEMU prints.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn capture(
        &mut self,
        start: impl FnOnce(ChildStdout, ChildStderr) -> io::Result<(Capture, Capture)>,
    ) -> io::Result<()> {
        let pipes = self.child.stdout.take().zip(self.child.stderr.take());
        let (stdout, stderr) = pipes.ok_or(io::ErrorKind::NotFound)?;
        let (console, stderr) = start(stdout, stderr)?;
        self.output = Some(Output { console, stderr });
        Ok(())
    }

    /// A process whose guest is gone ends within moments: whoever saw a stream end and asks why
    /// gets the status, too.
    fn await_exit(&self) {
        let timeout = PollTimeout::from(EXIT_GRACE_MS);
        // Interrupted or not in time: the status is then not known.
        let _ = poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], timeout);
    }

    fn phase(&self) -> BootPhase {
        let printed = self.output.as_ref().is_some_and(|output| output.console.seen() > 0);
        match self.device.progress() {
            Progress::Packet => BootPhase::UserSpace,
            Progress::Driver => BootPhase::Drivers,
            _ if printed => BootPhase::Kernel,
            Progress::FrontEnd => BootPhase::Machine,
            Progress::Nothing => BootPhase::Process,
        }
    }
}

fn end(child: &mut Child) -> io::Result<ExitStatus> {
    child.kill()?;
    child.wait()
}

impl Vm for QemuVm {
    fn vsock(&self) -> &VsockHandle {
        self.device.handle()
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn exit_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    fn kill(&mut self) -> io::Result<ExitStatus> {
        end(&mut self.child)
    }

    fn diagnose(&mut self) -> Diagnosis {
        if self.device.lost_guest() {
            self.await_exit();
        }
        // A status that cannot be had is one that is not known.
        let exit = self.child.try_wait().ok().flatten();
        if let (Some(output), Some(_)) = (&mut self.output, exit) {
            // The process is gone, so its pipes end.
            output.console.finish();
            output.stderr.finish();
        }
        let lines = |capture: fn(&Output) -> &Capture| {
            self.output.as_ref().map(|output| capture(output).last_lines(DIAGNOSIS_LINES))
        };
        Diagnosis {
            phase: self.phase(),
            vmm: "qemu",
            exit,
            stderr: lines(|output| &output.stderr).unwrap_or_default(),
            console: lines(|output| &output.console).unwrap_or_default(),
        }
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        // The process was waited for, or is killed now; neither leaves anything to be done.
        let _ = end(&mut self.child);
    }
}
