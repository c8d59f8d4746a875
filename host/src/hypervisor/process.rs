//! A VMM's process: waited for by descriptor, heard on its console and its standard error, and
//! ended when dropped. Knows no VMM.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::console::{Capture, RotatingFile};
use super::{BootPhase, Diagnosis};
use crate::sys::process;

/// Of the console in memory.
const CONSOLE_TAIL_BYTES: usize = 256 << 10;
/// Of the VMM's standard error in memory.
const STDERR_TAIL_BYTES: usize = 16 << 10;
/// Lines of the console and of standard error in a diagnosis; a panic prints about 30.
const DIAGNOSIS_LINES: usize = 40;
/// Between the end of the guest and of the VMM's process.
const EXIT_GRACE_MS: u16 = 500;
/// Between the end of the VMM's process and of its pipes.
const PIPES_GRACE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct VmmProcess {
    name: &'static str,
    child: Child,
    pidfd: OwnedFd,
    output: Option<Output>,
}

#[derive(Debug)]
struct Output {
    console: Capture,
    stderr: Capture,
}

impl VmmProcess {
    /// Takes over a VMM that was just started.
    ///
    /// # Errors
    /// Those of pidfd_open(2); the VMM is gone then.
    pub fn new(name: &'static str, mut child: Child) -> io::Result<Self> {
        match process::pidfd(&child) {
            Ok(pidfd) => Ok(Self { name, child, pidfd, output: None }),
            Err(error) => {
                end(&mut child)?;
                Err(error)
            }
        }
    }

    /// Starts to read what is printed: the guest to `console`, the VMM to the pipes of its process.
    ///
    /// # Errors
    /// Those of a thread's start.
    pub fn capture(
        &mut self,
        console: impl Read + Send + 'static,
        log: RotatingFile,
    ) -> io::Result<()> {
        let stderr = self.child.stderr.take().ok_or(io::ErrorKind::NotFound)?;
        self.output = Some(Output {
            console: Capture::start("console", console, CONSOLE_TAIL_BYTES, Some(log))?,
            stderr: Capture::start("vmm-stderr", stderr, STDERR_TAIL_BYTES, None)?,
        });
        Ok(())
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable when it ended.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// Those of waitid(2).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Ends it.
    ///
    /// # Errors
    /// Those of kill(2) and waitid(2).
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        end(&mut self.child)
    }

    /// A process whose guest is gone ends within moments: whoever saw a stream end and asks why
    /// gets the status, too.
    pub fn await_exit(&self) {
        let timeout = PollTimeout::from(EXIT_GRACE_MS);
        // Interrupted or not in time: the status is then not known.
        let _ = poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], timeout);
    }

    /// Whether the guest's console said something.
    fn has_printed(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.console.seen() > 0)
    }

    /// What is known of it. `phase` says how far its guest came, and is told whether that has
    /// printed something: asked last, when what it printed was read.
    pub fn diagnose(&mut self, phase: impl FnOnce(bool) -> BootPhase) -> Diagnosis {
        // A status that cannot be had is one that is not known.
        let exit = self.child.try_wait().ok().flatten();
        if let (Some(output), Some(_)) = (&self.output, exit) {
            // The process is gone, so its pipes end.
            output.console.finish(PIPES_GRACE);
            output.stderr.finish(PIPES_GRACE);
        }
        let lines = |capture: fn(&Output) -> &Capture| {
            self.output.as_ref().map(|output| capture(output).last_lines(DIAGNOSIS_LINES))
        };
        Diagnosis {
            phase: phase(self.has_printed()),
            vmm: self.name,
            exit,
            stderr: lines(|output| &output.stderr).unwrap_or_default(),
            console: lines(|output| &output.console).unwrap_or_default(),
        }
    }
}

fn end(child: &mut Child) -> io::Result<ExitStatus> {
    child.kill()?;
    child.wait()
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        // The process was waited for, or is killed now; neither leaves anything to be done.
        let _ = end(&mut self.child);
    }
}
