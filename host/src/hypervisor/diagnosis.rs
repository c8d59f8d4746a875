//! What is known of a VM that did not come up, or ended: for an error message.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How far a VM came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BootPhase {
    /// The VMM's process runs.
    Process,
    /// The VMM built the machine.
    Machine,
    /// The kernel printed something.
    Kernel,
    /// The kernel's drivers work.
    Drivers,
    /// A program of the guest spoke to the host.
    UserSpace,
}

impl fmt::Display for BootPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "the VMM was starting",
            Self::Machine => "the machine was built, and the kernel had printed nothing",
            Self::Kernel => "the kernel was booting",
            Self::Drivers => "the kernel had its drivers, and no program of the guest had spoken",
            Self::UserSpace => "the guest's user space was running",
        })
    }
}

/// What a VM's owner tells about it. Its `Display` is one line; [`Self::console`] has more.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// How far it came.
    pub phase: BootPhase,
    /// Name of the VMM.
    pub vmm: &'static str,
    /// How the VMM's process ended, `None` while it runs.
    pub exit: Option<ExitStatus>,
    /// The last lines of the VMM's standard error.
    pub stderr: Vec<String>,
    /// The last lines of the guest's console.
    pub console: Vec<String>,
}

impl Diagnosis {
    /// The line of the console by which Linux gives up; a stack trace follows it.
    fn panic_line(&self) -> Option<&String> {
        self.console.iter().rev().find(|line| line.contains("Kernel panic"))
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.phase)?;
        match self.exit {
            Some(status) if status.signal() == Some(nix::libc::SIGSYS) => {
                write!(f, "; {} made a system call that its jail forbids ({status})", self.vmm)?;
            }
            Some(status) => write!(f, "; {} ended with {status}", self.vmm)?,
            None => write!(f, "; {} still runs", self.vmm)?,
        }
        if let Some(line) = self.stderr.last() {
            write!(f, "; it said: {line}")?;
        }
        if let Some(line) = self.panic_line() {
            write!(f, "; the console says: {line}")?;
        } else if let Some(line) = self.console.last() {
            write!(f, "; the console's last line: {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_apart_and_name_nothing_that_only_one_vmm_has() {
        use BootPhase::{Drivers, Kernel, Machine, Process, UserSpace};
        let words = [Process, Machine, Kernel, Drivers, UserSpace].map(|phase| phase.to_string());
        for (at, phase) in words.iter().enumerate() {
            assert!(!words[..at].contains(phase), "{phase}");
            assert!(
                !["firmware", "BIOS", "qemu"].iter().any(|word| phase.contains(word)),
                "{phase}"
            );
        }
    }

    #[test]
    fn diagnosis_is_one_line_with_phase_status_and_last_words() {
        let diagnosis = Diagnosis {
            phase: BootPhase::Kernel,
            vmm: "qemu",
            exit: Some(ExitStatus::from_raw(9)),
            stderr: vec!["out of memory".into()],
            console: vec!["a".into(), "Kernel panic".into(), "Call Trace:".into()],
        };
        let line = diagnosis.to_string();
        assert_eq!(line.lines().count(), 1);
        for part in ["the kernel was booting", "signal: 9", "out of memory", "Kernel panic"] {
            assert!(line.contains(part), "{line}");
        }
        let jailed = Diagnosis { exit: Some(ExitStatus::from_raw(31)), ..diagnosis.clone() };
        let line = jailed.to_string();
        assert!(
            line.contains("; qemu made a system call that its jail forbids (signal: 31"),
            "{line}"
        );
        let running = Diagnosis { exit: None, stderr: vec![], console: vec![], ..diagnosis };
        assert_eq!(running.to_string(), "the kernel was booting; qemu still runs");
    }
}
