//! A virtual CPU: it runs the guest, and serves what the guest leaves for.

use std::sync::Arc;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::sys::eventfd::EventFd;

use super::exit::{Exit, Exits, Reason};
use super::gate::{Gate, Pass};
use super::kick::{InternalError, RunPage};
use crate::bus::Bus;
use crate::legacy::Reset;

/// KVM says which bytes it could not execute. KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES.
const HAS_INSTRUCTION: u64 = 1;
/// The longest instruction of the processor. Intel SDM 2A §2.3.11.
const MAX_INSTRUCTION: usize = 15;

/// What all processors of a machine have in common.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Where they wait while the guest does not run.
    pub gate: Gate,
    /// Told when the machine ended by itself.
    pub ended: EventFd,
    /// Registers in memory.
    pub mmio: Bus,
    /// I/O ports.
    pub ports: Bus,
    /// Asked for by a device at a port.
    pub reset: Reset,
}

/// See the module.
pub(super) struct Vcpu {
    pub fd: VcpuFd,
    pub page: Arc<RunPage>,
    pub exits: Arc<Exits>,
    pub surroundings: Arc<Surroundings>,
}

/// What comes after an exit.
enum Next {
    Enter,
    Gate,
    End(Exit),
}

impl Vcpu {
    /// Runs the guest until the machine ends or is stopped.
    pub fn run(mut self) {
        loop {
            match self.surroundings.gate.pass() {
                Pass::End => return,
                // The guest's watchdogs are told that it was the guest that stood still. A guest
                // without kvmclock cannot be told.
                Pass::Resume => drop(self.fd.kvmclock_ctrl()),
                Pass::Run => {}
            }
            if let Some(exit) = self.run_until_kicked() {
                self.surroundings.gate.end(exit);
                let _ = self.surroundings.ended.write(1);
                return;
            }
            // Before the gate is looked at: who closes it does so before it kicks.
            self.page.allow_entry();
        }
    }

    fn run_until_kicked(&mut self) -> Option<Exit> {
        loop {
            match self.enter() {
                Next::Enter => {}
                Next::Gate => return None,
                Next::End(exit) => return Some(exit),
            }
        }
    }

    fn enter(&mut self) -> Next {
        let Surroundings { mmio, ports, reset, .. } = &*self.surroundings;
        let (reason, next) = match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                for part in data.chunks_mut(self.page.port_access_len().max(1)) {
                    ports.read(port.into(), part);
                }
                (Reason::PortRead, Next::Enter)
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                for part in data.chunks(self.page.port_access_len().max(1)) {
                    ports.write(port.into(), part);
                }
                let next = if reset.is_asked() { Next::End(Exit::Reset) } else { Next::Enter };
                (Reason::PortWrite, next)
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                mmio.read(address, data);
                (Reason::MmioRead, Next::Enter)
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                mmio.write(address, data);
                (Reason::MmioWrite, Next::Enter)
            }
            Ok(VcpuExit::Intr) => (Reason::Interrupted, Next::Gate),
            Ok(VcpuExit::InternalError) => (Reason::InternalError, Next::End(self.gave_up())),
            Ok(exit) => ended(&exit),
            Err(error) => match error.errno() {
                libc::EINTR => (Reason::Interrupted, Next::Gate),
                // A processor that waited to be woken was: it is to be entered again.
                libc::EAGAIN => (Reason::Again, Next::Enter),
                errno => (Reason::Other, Next::End(Exit::RunFailed { errno })),
            },
        };
        self.exits.count(reason);
        next
    }

    fn gave_up(&self) -> Exit {
        let error = self.page.internal_error();
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        Exit::InternalError {
            suberror: error.suberror,
            rip,
            instruction: instruction(&error).unwrap_or_default(),
        }
    }
}

/// The exits that end a machine.
fn ended(exit: &VcpuExit<'_>) -> (Reason, Next) {
    let unexpected = || Exit::Unexpected { reason: format!("{exit:?}") };
    let (reason, exit) = match *exit {
        VcpuExit::Shutdown => (Reason::Shutdown, Exit::TripleFault),
        VcpuExit::SystemEvent(kind, _) => {
            let exit = match kind {
                KVM_SYSTEM_EVENT_SHUTDOWN => Exit::Shutdown,
                KVM_SYSTEM_EVENT_RESET => Exit::Reset,
                KVM_SYSTEM_EVENT_CRASH => Exit::Crash,
                _ => unexpected(),
            };
            (Reason::SystemEvent, exit)
        }
        VcpuExit::FailEntry(reason, _) => (Reason::Other, Exit::EntryFailed { reason }),
        VcpuExit::MemoryFault { gpa, .. } => (Reason::Other, Exit::MemoryFault { address: gpa }),
        // KVM's own interrupt controllers wait for the interrupt, so this is not one of them.
        VcpuExit::Hlt => (Reason::Halt, unexpected()),
        _ => (Reason::Other, unexpected()),
    };
    (reason, Next::End(exit))
}

/// The bytes of the instruction that KVM could not execute: behind the flags, their number and the
/// bytes themselves. `emulation_failure` of linux/kvm.h.
fn instruction(error: &InternalError) -> Option<Vec<u8>> {
    let [flags, words @ ..] = error.data;
    let told = error.suberror == KVM_INTERNAL_ERROR_EMULATION
        && error.ndata > 0
        && flags & HAS_INSTRUCTION != 0;
    let bytes = words.map(u64::to_le_bytes).concat();
    let (len, bytes) = bytes.split_first()?;
    let len = usize::from(*len).min(MAX_INSTRUCTION);
    told.then(|| bytes.get(..len).map(<[u8]>::to_vec))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instruction_that_failed_is_told_where_kvm_tells_it() {
        let mut error = InternalError { suberror: 1, ndata: 3, ..InternalError::default() };
        error.data[1] = u64::from_le_bytes([3, 0x0f, 0x01, 0xd0, 0, 0, 0, 0]);
        assert_eq!(instruction(&error), None);
        error.data[0] = 1;
        assert_eq!(instruction(&error), Some(vec![0x0f, 0x01, 0xd0]));
        error.data[1] |= 0xff;
        assert_eq!(instruction(&error).unwrap().len(), 15);
        error.suberror = 4;
        assert_eq!(instruction(&error), None);
    }
}
