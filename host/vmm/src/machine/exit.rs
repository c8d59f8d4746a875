//! How a machine ends, and what its processors left the guest for.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// The guest switched itself off.
    Shutdown,
    /// The guest asked for a reset, which is what ours does at its end.
    Reset,
    /// The guest says that it crashed.
    Crash,
    /// An exception while an exception while an exception was handled: a processor resets itself.
    TripleFault,
    /// KVM could not go on.
    InternalError {
        /// KVM_INTERNAL_ERROR_* of linux/kvm.h.
        suberror: u32,
        /// Where the processor was.
        rip: u64,
        /// The instruction that KVM could not execute, if it tells.
        instruction: Vec<u8>,
    },
    /// The host's processor refuses to enter the guest.
    EntryFailed {
        /// The processor's own reason.
        reason: u64,
    },
    /// The guest's memory is not there: its file was cut, or the host's memory is broken.
    MemoryFault {
        /// In the guest.
        address: u64,
    },
    /// KVM_RUN failed.
    RunFailed {
        /// errno(3).
        errno: i32,
    },
    /// KVM stopped for a reason that this machine never asks it to.
    Unexpected {
        /// For people.
        reason: String,
    },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("the guest switched itself off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Crash => f.write_str("the guest reported a crash"),
            Self::TripleFault => f.write_str("triple fault in the guest"),
            Self::InternalError { suberror, rip, instruction } => {
                write!(f, "KVM internal error {suberror} at {rip:#x}")?;
                if !instruction.is_empty() {
                    f.write_str(", instruction")?;
                }
                instruction.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
            }
            Self::EntryFailed { reason } => {
                write!(f, "the processor refuses to enter the guest: {reason:#x}")
            }
            Self::MemoryFault { address } => write!(f, "the guest has no memory at {address:#x}"),
            Self::RunFailed { errno } => {
                write!(f, "KVM_RUN: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Unexpected { reason } => write!(f, "KVM stopped with {reason}"),
        }
    }
}

/// Why a processor left the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Reason {
    PortRead,
    PortWrite,
    MmioRead,
    MmioWrite,
    Halt,
    Shutdown,
    SystemEvent,
    InternalError,
    Interrupted,
    Again,
    Other,
}

impl Reason {
    /// For people and for statistics.
    pub const NAMES: [(Self, &'static str); 11] = [
        (Self::PortRead, "port_read"),
        (Self::PortWrite, "port_write"),
        (Self::MmioRead, "mmio_read"),
        (Self::MmioWrite, "mmio_write"),
        (Self::Halt, "halt"),
        (Self::Shutdown, "shutdown"),
        (Self::SystemEvent, "system_event"),
        (Self::InternalError, "internal_error"),
        (Self::Interrupted, "interrupted"),
        (Self::Again, "again"),
        (Self::Other, "other"),
    ];
}

/// The exits of one processor, so that no two write to the same place.
#[derive(Debug, Default)]
pub(super) struct Exits([AtomicU64; Reason::NAMES.len()]);

impl Exits {
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}
