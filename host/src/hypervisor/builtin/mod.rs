//! The built-in VMM: `husk` itself, run again as the process of a machine. Opens all that it needs
//! and hands it over; builds no machine.
//!
//! ```text
//! open files -> run husk, jailed -> write configuration --> Vm --> Built
//!      '--------------'--------------------'-----------------'--> one line, nothing is left
//! ```

mod machine;
mod vm;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use husk_vmm::channel::Channel;
use husk_vmm::config::Config;
use husk_vmm::control::Client;
use husk_vmm::process::COMMAND;
use husk_vmm::vsock::relay;

use super::prepare::{Files, open_error, prepare};
use super::process::VmmProcess;
use super::{Hypervisor, Vm, VmConfig, VmError};
use crate::sys::process;
use machine::Descriptors;
pub use machine::KERNEL_WORDS;
use vm::{BuiltinVm, Guest};

/// KVM's device.
pub const KVM: &str = "/dev/kvm";
/// This very program, also after its file was replaced. proc_pid_exe(5).
const OWN_PROGRAM: &str = "/proc/self/exe";
/// What `ps` shows.
const PROCESS_NAME: &str = "husk-vmm";

/// The built-in VMM of a program.
#[derive(Debug)]
pub struct Builtin {
    program: PathBuf,
}

impl Default for Builtin {
    /// Of the program that runs, which is husk.
    fn default() -> Self {
        Self::of(Path::new(OWN_PROGRAM))
    }
}

impl Builtin {
    /// Of another program, which is husk: for tests, whose own program is another.
    #[must_use]
    pub fn of(program: &Path) -> Self {
        Self { program: program.to_owned() }
    }

    fn run(&self, keep: &[BorrowedFd<'_>]) -> Result<Child, VmError> {
        let mut command = Command::new(&self.program);
        command
            .arg0(OsStr::new(PROCESS_NAME))
            .arg(COMMAND)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        process::spawn_bound(&mut command, keep).map_err(self.run_error())
    }

    fn run_error(&self) -> impl FnOnce(io::Error) -> VmError {
        let program = self.program.clone();
        move |source| VmError::Run { program, source }
    }
}

/// What passes between a VMM and us: our ends, and its.
struct Wires {
    control: (Channel, Channel),
    streams: (Channel, Channel),
    console: (PipeReader, PipeWriter),
}

impl Wires {
    fn new() -> io::Result<Self> {
        Ok(Self { control: Channel::pair()?, streams: Channel::pair()?, console: io::pipe()? })
    }
}

impl Hypervisor for Builtin {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn launch(&self, config: &VmConfig) -> Result<Box<dyn Vm>, VmError> {
        let files = prepare(config)?;
        let device = File::options().read(true).write(true).open(KVM);
        let kvm = device.map_err(open_error("KVM", Path::new(KVM)))?;
        let Wires { control, streams, console } = Wires::new().map_err(self.run_error())?;
        let descriptors = Descriptors {
            kvm: &kvm,
            files: &files,
            control: control.1.as_fd(),
            streams: streams.1.as_fd(),
            console: console.1.as_fd(),
        };
        let machine = descriptors.machine(config);
        machine.validate().map_err(VmError::Machine)?;
        let mut child = self.run(&descriptors.all())?;
        // What the VMM holds must end with it: our copies of its ends go.
        drop((control.1, streams.1, console.1));
        let pipe = child.stdin.take();
        let mut process = VmmProcess::new("the built-in VMM", child).map_err(self.run_error())?;
        let Files { console_log, .. } = files;
        process.capture(console.0, console_log).map_err(self.run_error())?;
        // A VMM that does not read is gone, and says more than this error.
        let _ = pipe.map_or(Ok(()), |pipe| tell(pipe, &machine));
        let guest = Guest::new().map_err(self.run_error())?;
        let vsock = relay::serve(streams.0).map_err(VmError::Vsock)?;
        let control = Client::start(control.0, guest.listener()).map_err(self.run_error())?;
        Ok(Box::new(BuiltinVm::new(process, control, vsock, guest)))
    }
}

/// Writes the configuration and closes the pipe.
fn tell(mut pipe: impl Write, machine: &Config) -> io::Result<()> {
    pipe.write_all(&serde_json::to_vec(machine)?)
}

#[cfg(test)]
mod tests;
