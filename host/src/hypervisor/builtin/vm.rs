//! A machine that runs: its process, its control socket and its streams. Ends all of it when
//! dropped.

use std::io;
use std::os::fd::BorrowedFd;
use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use husk_vmm::control::{Client, ClientError, Event};
use husk_vmm::vsock::VsockHandle;

use super::super::process::VmmProcess;
use super::super::{BootPhase, Diagnosis, Vm, VmError};

/// Loading a kernel and an initramfs takes milliseconds, and longer from a slow disk.
const BUILD_DEADLINE: Duration = Duration::from_secs(60);
/// A VMM that lives answers at once.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct State {
    phase: Option<BootPhase>,
    gone: bool,
}

/// What the VMM told of its guest.
#[derive(Debug, Clone, Default)]
pub struct Guest(Arc<(Mutex<State>, Condvar)>);

impl Guest {
    /// Takes note of events.
    pub fn listener(&self) -> impl FnMut(Option<Event>) + Send + use<> {
        let guest = self.clone();
        move |event| {
            let (state, changed) = &*guest.0;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Some(Event::Built) => state.phase = Some(BootPhase::Machine),
                Some(Event::DriverReady) => state.phase = Some(BootPhase::Drivers),
                Some(Event::FirstPacket) => state.phase = Some(BootPhase::UserSpace),
                Some(Event::Ended { .. }) | None => state.gone = true,
            }
            changed.notify_all();
        }
    }

    /// Waits for a machine. False when the VMM is gone before there was one, or is stuck.
    fn await_machine(&self) -> bool {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |state: &mut State| state.phase.is_none() && !state.gone;
        let waited = changed.wait_timeout_while(state, BUILD_DEADLINE, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.phase.is_some()
    }

    fn is_gone(&self) -> bool {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).gone
    }

    fn phase(&self, has_printed: bool) -> BootPhase {
        let phase = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).phase;
        match phase.unwrap_or(BootPhase::Process) {
            BootPhase::Machine if has_printed => BootPhase::Kernel,
            phase => phase,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct BuiltinVm {
    // Dropped in this order: the process is killed before its socket is closed.
    process: VmmProcess,
    control: Client,
    vsock: VsockHandle,
    guest: Guest,
}

impl BuiltinVm {
    /// Waits until the machine is built.
    ///
    /// # Errors
    /// [`VmError::Refused`] with what the VMM says; it is gone then.
    pub fn built(
        process: VmmProcess,
        control: Client,
        vsock: VsockHandle,
        guest: Guest,
    ) -> Result<Self, VmError> {
        let mut vm = Self { process, control, vsock, guest };
        if vm.guest.await_machine() {
            return Ok(vm);
        }
        vm.process.await_exit();
        // Ends a VMM that is stuck, too.
        let _ = vm.process.kill();
        let diagnosis = vm.process.diagnose(BootPhase::Process);
        Err(match diagnosis.stderr.last() {
            Some(line) => VmError::Refused { reason: line.clone() },
            None => VmError::Refused { reason: diagnosis.to_string() },
        })
    }

    /// Whether the VMM is on its way out, though it may not have said so yet.
    fn is_leaving(&self) -> bool {
        self.guest.is_gone()
            || matches!(self.control.statistics(SIGN_OF_LIFE), Err(ClientError::Gone))
    }
}

impl Vm for BuiltinVm {
    fn vsock(&self) -> &VsockHandle {
        &self.vsock
    }

    fn control(&self) -> Option<&Client> {
        Some(&self.control)
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
        if self.is_leaving() {
            self.process.await_exit();
        }
        self.process.diagnose(self.guest.phase(self.process.has_printed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_is_as_far_as_its_vmm_tells() {
        let guest = Guest::default();
        let mut hear = guest.listener();
        assert_eq!(guest.phase(false), BootPhase::Process);
        for (event, quiet, loud) in [
            (Event::Built, BootPhase::Machine, BootPhase::Kernel),
            (Event::DriverReady, BootPhase::Drivers, BootPhase::Drivers),
            (Event::FirstPacket, BootPhase::UserSpace, BootPhase::UserSpace),
        ] {
            hear(Some(event));
            assert_eq!((guest.phase(false), guest.phase(true)), (quiet, loud));
        }
        assert!(guest.await_machine());
        assert!(!guest.is_gone());
        hear(None);
        assert!(guest.is_gone());
    }
}
