//! A machine that runs: its process, its control socket and its streams. Ends all of it when
//! dropped.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use husk_vmm::control::{Client, ClientError, Event};
use husk_vmm::vsock::VsockHandle;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::super::process::VmmProcess;
use super::super::{BootPhase, Diagnosis, Vm, VmError};

/// A VMM that lives answers at once.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct State {
    phase: Option<BootPhase>,
    jail: BTreeMap<String, String>,
    gone: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Readable once there is a machine, or never will be.
    decided: EventFd,
}

/// What the VMM told of its guest.
#[derive(Debug, Clone)]
pub struct Guest(Arc<Shared>);

impl Guest {
    /// Nothing yet.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new() -> io::Result<Self> {
        let decided = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (state, changed) = (Mutex::default(), Condvar::new());
        Ok(Self(Arc::new(Shared { state, changed, decided })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of events.
    pub fn listener(&self) -> impl FnMut(Option<Event>) + Send + use<> {
        let guest = self.clone();
        move |event| {
            let mut state = guest.state();
            match event {
                // The first one: it comes before the guest's first instruction.
                Some(Event::Built { jail }) if state.phase.is_none() => {
                    state.phase = Some(BootPhase::Machine);
                    state.jail = jail;
                }
                Some(Event::Built { .. }) => {}
                Some(Event::DriverReady) => state.phase = Some(BootPhase::Drivers),
                Some(Event::FirstPacket) => state.phase = Some(BootPhase::UserSpace),
                Some(Event::Ended { .. }) | None => state.gone = true,
            }
            guest.0.changed.notify_all();
            // A counter that is full is readable, too.
            let _ = guest.0.decided.write(1);
        }
    }

    /// Waits for a machine. False when the VMM is gone before there was one, or is stuck.
    fn await_machine(&self, timeout: Duration) -> bool {
        let waits = |state: &mut State| state.phase.is_none() && !state.gone;
        let waited = self.0.changed.wait_timeout_while(self.state(), timeout, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.phase.is_some()
    }

    fn is_gone(&self) -> bool {
        self.state().gone
    }

    fn phase(&self, has_printed: bool) -> BootPhase {
        match self.state().phase.unwrap_or(BootPhase::Process) {
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
    /// A VMM that was told what to build.
    pub fn new(process: VmmProcess, control: Client, vsock: VsockHandle, guest: Guest) -> Self {
        Self { process, control, vsock, guest }
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

    fn machine_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.guest.0.decided.as_fd())
    }

    fn await_machine(&mut self, timeout: Duration) -> Result<(), VmError> {
        if self.guest.await_machine(timeout) {
            return Ok(());
        }
        if self.guest.is_gone() {
            self.process.await_exit();
        }
        // Ends a VMM that is stuck, too.
        let _ = self.process.kill();
        let diagnosis = self.process.diagnose(|_| BootPhase::Process);
        Err(match diagnosis.stderr.last() {
            Some(line) => VmError::Refused { reason: line.clone() },
            None => VmError::Refused { reason: diagnosis.to_string() },
        })
    }

    fn jail(&self) -> BTreeMap<String, String> {
        self.guest.state().jail.clone()
    }

    fn control(&self) -> Option<&Client> {
        Some(&self.control)
    }

    fn process(&self) -> &VmmProcess {
        &self.process
    }

    fn process_mut(&mut self) -> &mut VmmProcess {
        &mut self.process
    }

    fn diagnose(&mut self) -> Diagnosis {
        if self.is_leaving() {
            self.process.await_exit();
        }
        let guest = &self.guest;
        self.process.diagnose(|has_printed| guest.phase(has_printed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_is_as_far_as_its_vmm_tells() {
        let guest = Guest::new().unwrap();
        let mut hear = guest.listener();
        assert_eq!(guest.phase(false), BootPhase::Process);
        let told = BTreeMap::from([("root".to_owned(), "yes".to_owned())]);
        for (event, quiet, loud) in [
            (Event::Built { jail: told.clone() }, BootPhase::Machine, BootPhase::Kernel),
            (Event::DriverReady, BootPhase::Drivers, BootPhase::Drivers),
            (Event::FirstPacket, BootPhase::UserSpace, BootPhase::UserSpace),
        ] {
            hear(Some(event));
            assert_eq!((guest.phase(false), guest.phase(true)), (quiet, loud));
        }
        assert!(guest.await_machine(Duration::ZERO));
        // Whoever takes the VMM over later has no say in this.
        hear(Some(Event::Built { jail: BTreeMap::new() }));
        assert_eq!(guest.phase(true), BootPhase::UserSpace);
        assert_eq!(guest.state().jail, told);
        assert!(!guest.is_gone());
        hear(None);
        assert!(guest.is_gone());
    }
}
