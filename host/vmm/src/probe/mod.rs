//! Finds out by trying whether KVM runs a kernel here: a VM of a few instructions in ring 0.
//!
//! A KVM that has no hardware under it may open, create VMs, and then interpret ring 0 instruction
//! by instruction, without those that every kernel uses. The probe executes such instructions; its
//! verdict follows from how far the VM came. Boots nothing, knows no hypervisor.

pub(crate) mod machine;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use machine::Stop;

use crate::signal;

/// A probe takes milliseconds where the hardware runs it.
const DEADLINE: Duration = Duration::from_secs(1);
/// How often a VM that is past its deadline is told to stop.
const KICK_INTERVAL: Duration = Duration::from_millis(5);

/// What KVM is good for on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Ring 0 runs on the hardware.
    Usable,
    /// KVM opens, and a kernel would hang or die on it.
    Emulated {
        /// What the VM did, for people.
        reason: String,
    },
    /// There is no KVM for us.
    Unavailable {
        /// Which call was refused and why, for people.
        reason: String,
    },
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usable => f.write_str("KVM runs on the hardware"),
            Self::Emulated { reason } => write!(f, "KVM only emulates: {reason}"),
            Self::Unavailable { reason } => write!(f, "no KVM: {reason}"),
        }
    }
}

/// Tries KVM. Blocks for milliseconds, at most for about a second. Starts a thread for the VM
/// and stops it by a real-time signal, `SIGRTMIN`, whose action it sets to do nothing.
#[must_use]
pub fn probe() -> Verdict {
    let machine = match machine::Machine::build() {
        Ok(machine) => machine,
        Err(refusal) => return Verdict::Unavailable { reason: refusal.to_string() },
    };
    if let Err(error) = signal::install() {
        return Verdict::Unavailable { reason: format!("set the action of a signal: {error}") };
    }
    run(machine)
}

fn run(machine: machine::Machine) -> Verdict {
    let (sender, done) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("kvm-probe".into()).spawn(move || {
        let stop = machine.run();
        // The receiver waits until this thread ends.
        let _ = sender.send(());
        stop
    });
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return Verdict::Unavailable { reason: format!("start a thread: {error}") },
    };
    let mut wait = DEADLINE;
    while done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        // Again and again: a signal that arrives before KVM_RUN stops nothing.
        signal::send(&thread);
        wait = KICK_INTERVAL;
    }
    match thread.join() {
        Ok(stop) => verdict(&stop),
        Err(_) => Verdict::Unavailable { reason: "the probe panicked".into() },
    }
}

fn verdict(stop: &Stop) -> Verdict {
    match stop {
        Stop::Finished => Verdict::Usable,
        Stop::At { reached, exit } => {
            Verdict::Emulated { reason: format!("{} in ring 0: {exit}", reached.next()) }
        }
        Stop::WrongResult { what } => {
            Verdict::Emulated { reason: format!("{what} in ring 0 gave a wrong result") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::machine::Step;
    use super::*;

    #[test]
    fn probe_ends_with_a_verdict_and_a_reason() {
        match probe() {
            Verdict::Usable => {}
            Verdict::Emulated { reason } | Verdict::Unavailable { reason } => {
                assert!(!reason.is_empty());
            }
        }
    }

    #[test]
    fn vm_that_stops_early_is_emulated_and_the_instruction_named() {
        let stop = Stop::At { reached: Step::CompareExchange, exit: "an internal error".into() };
        let Verdict::Emulated { reason } = verdict(&stop) else { panic!("{stop:?}") };
        assert_eq!(reason, "XSAVE in ring 0: an internal error");
        assert_eq!(verdict(&Stop::Finished), Verdict::Usable);
    }

    #[test]
    fn vm_that_never_stops_is_stopped() {
        let Ok(machine) = machine::Machine::build_endless() else {
            eprintln!("SKIPPED: no KVM on this machine");
            return;
        };
        signal::install().unwrap();
        let Verdict::Emulated { reason } = run(machine) else { panic!("an endless VM finished") };
        assert!(reason.contains("interrupted"), "{reason}");
    }
}
