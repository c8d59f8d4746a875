//! Virtual machines behind one trait. Knows no OCI, no images: disks are files, the rest numbers.
//!
//! ```text
//! choose --> Hypervisor --start(VmConfig)--> Vm --the guest powers off, kill, drop--> gone
//! ```
//!
//! A VM that does not come up, or that ends early, is told about by [`Vm::diagnose`].

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::str::FromStr;
use std::time::Duration;

use husk_vmm::boot::MAX_VCPUS;
use husk_vmm::config::ConfigError;
use husk_vmm::control::Client;
use husk_vmm::memory::MemoryError;
use husk_vmm::probe;
use husk_vmm::vsock::VsockHandle;

use crate::sys::tsc;

pub mod builtin;
pub mod console;
pub mod diagnosis;
mod prepare;
pub mod process;
pub mod qemu;
pub mod survey;
#[cfg(test)]
mod testing;

pub use diagnosis::{BootPhase, Diagnosis};
use process::VmmProcess;

/// The most bytes of a disk's serial. virtio 1.2 §5.2.6.
pub const MAX_SERIAL_LEN: usize = husk_vmm::config::MAX_SERIAL_LEN;

/// How long a machine may take to be built: loading a kernel and an initramfs takes milliseconds,
/// and longer from a slow disk.
pub const MACHINE_DEADLINE: Duration = Duration::from_secs(60);

/// What a VM is made of. Parsed before: paths exist or starting is an error.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// An uncompressed ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// A cpio archive whose `/init` runs.
    pub initramfs: PathBuf,
    /// Words for the kernel's command line, behind those of the hypervisor.
    pub kernel_args: Vec<String>,
    /// Processors, at least 1.
    pub vcpus: u32,
    /// Memory of the whole VM.
    pub memory_mib: u32,
    /// Disks, found in the guest by their serials.
    pub disks: Vec<Disk>,
    /// The guest's vsock address.
    pub guest_cid: u32,
    /// The host's vsock address.
    pub host_cid: u32,
    /// Where the console's output goes, bounded: the newest part here, the part before it beside
    /// it under the same name and `.1`.
    pub console_log: PathBuf,
}

/// A raw disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// By what the guest finds it: 1 to [`MAX_SERIAL_LEN`] letters, digits, `-`, `_` or `.`.
    pub serial: String,
    /// The image; opened before the VM starts.
    pub path: PathBuf,
    /// Writes are refused by the device.
    pub read_only: bool,
    /// Nobody reads the image after the VM: the guest's flushes need not reach stable storage.
    pub disposable: bool,
}

/// What starts VMs.
pub trait Hypervisor: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Starts a VM's process. Blocks for milliseconds, and leaves open whether it can be the
    /// machine: see [`Vm::await_machine`]. The VM is killed when the calling *thread* ends: call
    /// from one that lives as long as the VM should.
    ///
    /// # Errors
    /// [`VmError`]: nothing was started, or what was is gone again.
    fn launch(&self, config: &VmConfig) -> Result<Box<dyn Vm>, VmError>;

    /// Starts a VM, and waits for its machine, not until the guest is up.
    ///
    /// # Errors
    /// Those of [`Self::launch`] and of [`Vm::await_machine`].
    fn start(&self, config: &VmConfig) -> Result<Box<dyn Vm>, VmError> {
        let mut vm = self.launch(config)?;
        vm.await_machine(MACHINE_DEADLINE)?;
        Ok(vm)
    }
}

/// A VM that was started. Killed when dropped.
pub trait Vm: Send {
    /// The process that is the VM.
    fn process(&self) -> &VmmProcess;

    /// The same, to end it or to wait for it.
    fn process_mut(&mut self) -> &mut VmmProcess;

    /// The guest's byte streams.
    fn vsock(&self) -> &VsockHandle;

    /// Readable when [`Self::await_machine`] does not block; `None` if it never does.
    fn machine_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Waits until the machine is built. Blocks for up to `timeout`, and a moment longer for the
    /// last words of a VMM that refuses.
    ///
    /// # Errors
    /// [`VmError::Refused`] with what the VMM says; it is gone then.
    fn await_machine(&mut self, _timeout: Duration) -> Result<(), VmError> {
        Ok(())
    }

    /// The layers of the VMM's jail and how they stand, for people, where there is one.
    fn jail(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// How to ask the VMM for more than its end, where it can be asked.
    fn control(&self) -> Option<&Client> {
        None
    }

    /// The VMM's process.
    fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Readable when the VMM's process ended.
    fn exit_fd(&self) -> BorrowedFd<'_> {
        self.process().exit_fd()
    }

    /// How the VMM's process ended, if it did. Does not block.
    ///
    /// # Errors
    /// Those of waitid(2).
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process_mut().try_wait()
    }

    /// Kills the VMM's process if it still runs, and waits for its end, which is near.
    ///
    /// # Errors
    /// Those of kill(2) and waitid(2).
    fn kill(&mut self) -> io::Result<ExitStatus> {
        self.process_mut().kill()
    }

    /// How far the VM came and what it said last. Blocks only while a VMM whose guest is gone is on
    /// its way out, for half a second at most.
    fn diagnose(&mut self) -> Diagnosis;
}

/// Why a VM was not started.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A file of the VM cannot be used.
    #[error("start VM: open {what} {}", path.display())]
    Open {
        /// Which of its files.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A serial that a guest cannot find.
    #[error("start VM: disk serial {serial:?} is not 1 to {MAX_SERIAL_LEN} letters, digits, -_.")]
    Serial {
        /// As configured.
        serial: String,
    },
    /// Two disks that a guest could not tell apart.
    #[error("start VM: disk serial {serial} appears twice")]
    Twice {
        /// As configured.
        serial: String,
    },
    /// No processor, or too many.
    #[error("start VM: {vcpus} CPUs: 1 to {MAX_VCPUS} are possible")]
    Vcpus {
        /// As configured.
        vcpus: u32,
    },
    /// Too little memory, or too much.
    #[error("start VM")]
    Memory(#[source] MemoryError),
    /// Too many words for the kernel.
    #[error("start VM: the kernel's command line has {len} bytes, and {max} are the most")]
    CommandLine {
        /// Its bytes, with the words of the machine.
        len: usize,
        /// The most.
        max: usize,
    },
    /// There is no such machine.
    #[error("start VM")]
    Machine(#[source] ConfigError),
    /// The VMM could not build the machine.
    #[error("start VM: {reason}")]
    Refused {
        /// The VMM's own words.
        reason: String,
    },
    /// The vsock device.
    #[error("start VM: serve its vsock device")]
    Vsock(#[source] io::Error),
    /// The VMM's process.
    #[error("start VM: run {}", program.display())]
    Run {
        /// The VMM.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that works here.
    #[default]
    Auto,
    /// The built-in VMM.
    Kvm,
    /// QEMU.
    Qemu,
}

/// A word that names no hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown hypervisor {0:?} (auto, kvm or qemu)")]
pub struct UnknownHypervisor(String);

impl FromStr for Choice {
    type Err = UnknownHypervisor;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "qemu" => Ok(Self::Qemu),
            _ => Err(UnknownHypervisor(word.to_owned())),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        })
    }
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The hardware, through KVM.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What was chosen, and why; for `husk inspect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Name of the hypervisor.
    pub hypervisor: &'static str,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// Why, for people.
    pub reason: String,
}

/// Why there is no hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    /// KVM is not there for us.
    #[error("choose hypervisor kvm: {found} ({advice})")]
    NoKvm {
        /// What was found.
        found: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// QEMU is not there.
    #[error("choose hypervisor qemu: no {program} in PATH (apt-get install qemu-system-x86)")]
    NoQemu {
        /// The program that was looked for.
        program: &'static str,
    },
    /// Neither is.
    #[error(
        "choose hypervisor: {kvm}, and no {program} in PATH (apt-get install qemu-system-x86, or \
         see husk doctor)"
    )]
    Nothing {
        /// What KVM is good for.
        kvm: probe::Verdict,
        /// The program that was looked for.
        program: &'static str,
    },
}

/// A hypervisor, and why it is this one.
pub type Chosen = (Box<dyn Hypervisor>, Verdict);

/// Finds out what runs VMs here, by trying. Blocks for milliseconds, at most for about a second. To
/// be called in the husk program, which is then also the built-in VMM.
///
/// # Errors
/// [`ChooseError`]: what was asked for is not there.
pub fn choose(choice: Choice) -> Result<Chosen, ChooseError> {
    choose_among(choice, builtin::Builtin::default())
}

/// As [`choose`], with the husk program at `program` as the built-in VMM: for tests, whose own
/// program is another.
///
/// # Errors
/// [`ChooseError`].
pub fn choose_with(choice: Choice, program: &Path) -> Result<Chosen, ChooseError> {
    choose_among(choice, builtin::Builtin::of(program))
}

fn choose_among(choice: Choice, builtin: builtin::Builtin) -> Result<Chosen, ChooseError> {
    if choice == Choice::Kvm {
        survey::kvm_device().map_err(|finding| ChooseError::NoKvm {
            found: finding.found,
            advice: finding.advice,
        })?;
    }
    let (kvm, tsc_khz) = std::thread::scope(|scope| {
        let tsc = scope.spawn(tsc::measure_khz);
        (probe::probe(), tsc.join().unwrap_or_default())
    });
    if let (Choice::Kvm, probe::Verdict::Unavailable { reason }) = (choice, &kvm) {
        let found = format!("{}: {reason}", builtin::KVM);
        return Err(ChooseError::NoKvm { found, advice: survey::NO_KVM_ADVICE });
    }
    let usable = kvm == probe::Verdict::Usable;
    if choice == Choice::Kvm || (choice == Choice::Auto && usable) {
        // Somebody who asks for a KVM that only emulates has a kernel for it.
        let reason = if usable { kvm.to_string() } else { format!("asked for, though {kvm}") };
        let verdict = Verdict { hypervisor: builtin.name(), accelerator: Accelerator::Kvm, reason };
        return Ok((Box::new(builtin), verdict));
    }
    let program = match qemu::find_program() {
        Err(ChooseError::NoQemu { program }) if choice == Choice::Auto => {
            return Err(ChooseError::Nothing { kvm, program });
        }
        found => found?,
    };
    let (accelerator, reason) = accelerate(&kvm);
    let hypervisor = qemu::Qemu::new(program, accelerator, tsc_khz);
    let verdict = Verdict { hypervisor: hypervisor.name(), accelerator, reason };
    Ok((Box::new(hypervisor), verdict))
}

fn accelerate(kvm: &probe::Verdict) -> (Accelerator, String) {
    let accelerator = match kvm {
        probe::Verdict::Usable => Accelerator::Kvm,
        probe::Verdict::Emulated { .. } | probe::Verdict::Unavailable { .. } => Accelerator::Tcg,
    };
    (accelerator, kvm.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hypervisor_is_the_one_asked_for_or_refused_with_a_hint() {
        match choose(Choice::Kvm) {
            Ok((hypervisor, verdict)) => {
                assert_eq!((hypervisor.name(), verdict.hypervisor), ("kvm", "kvm"));
                assert_eq!(verdict.accelerator, Accelerator::Kvm);
                assert!(verdict.reason.contains("KVM"), "{}", verdict.reason);
            }
            Err(error) => assert!(error.to_string().contains("/dev/kvm"), "{error}"),
        }
        match choose(Choice::Qemu) {
            Ok((hypervisor, _)) => assert_eq!(hypervisor.name(), "qemu"),
            Err(error) => assert!(error.to_string().contains("apt-get install"), "{error}"),
        }
    }

    #[test]
    fn built_in_vmm_is_chosen_where_kvm_runs_ring_0_and_nowhere_else() {
        let usable = probe::probe() == probe::Verdict::Usable;
        match choose(Choice::Auto) {
            Ok((hypervisor, _)) => assert_eq!(hypervisor.name() == "kvm", usable),
            Err(error) => assert!(matches!(error, ChooseError::Nothing { .. }), "{error}"),
        }
    }

    #[test]
    fn kvm_is_used_only_where_it_runs_ring_0() {
        assert_eq!(accelerate(&probe::Verdict::Usable).0, Accelerator::Kvm);
        let reason = "CMPXCHG16B in ring 0: KVM_EXIT_INTERNAL_ERROR".to_owned();
        let (accelerator, why) = accelerate(&probe::Verdict::Emulated { reason: reason.clone() });
        assert_eq!(accelerator, Accelerator::Tcg);
        assert!(why.contains(&reason), "{why}");
        let unavailable = probe::Verdict::Unavailable { reason: "open /dev/kvm".into() };
        assert_eq!(accelerate(&unavailable).0, Accelerator::Tcg);
    }

    #[test]
    fn words_for_hypervisors_are_read_and_written() {
        for word in ["auto", "kvm", "qemu"] {
            assert_eq!(word.parse::<Choice>().unwrap().to_string(), word);
        }
        assert!("xen".parse::<Choice>().unwrap_err().to_string().contains("xen"));
    }
}
