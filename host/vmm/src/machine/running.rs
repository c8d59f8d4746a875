//! A machine whose processors have their threads.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_bindings::{CpuId, kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuFd, VmFd};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;
use vm_memory::GuestRegionMmap;

use super::exit::{Exit, Exits, Reason};
use super::gate::Gate;
use super::kick::{self, RunPage};
use super::vcpu::{Surroundings, Vcpu};
use super::{Machine, MachineError, cpuid, kvm, state};
use crate::bus::Bus;
use crate::legacy::Legacy;
use crate::{Memory, signal};

/// Stack of a processor's thread: devices are served on it.
const STACK_BYTES: usize = 512 << 10;

/// What each processor's thread does to itself before the guest's first instruction.
pub type SetUp = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Numbers of a machine since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// How often its processors left the guest, by reason.
    pub exits: BTreeMap<&'static str, u64>,
    /// Accesses to memory where there is none.
    pub unknown_mmio: u64,
    /// Accesses to I/O ports that nobody has.
    pub unknown_ports: u64,
    /// Bytes of the console that met a full pipe.
    pub console_lost_bytes: u64,
}

#[derive(Debug)]
struct Processor {
    page: Arc<RunPage>,
    exits: Arc<Exits>,
    thread: Option<JoinHandle<()>>,
}

/// See the module. Stopped when dropped.
#[derive(Debug)]
pub struct Running {
    surroundings: Arc<Surroundings>,
    processors: Vec<Processor>,
    legacy: Legacy,
    // Dropped in this order, after the threads are joined: the VM before the memory that it uses.
    vm: VmFd,
    memory: Memory,
}

impl Running {
    /// Stops the guest: when this returns, no processor is in it, none enters it, and none serves
    /// an exit. The guest's clocks go on. False when one of them took longer than `timeout` for an
    /// exit: those that come still stop.
    pub fn pause(&self, timeout: Duration) -> bool {
        self.surroundings.gate.close();
        self.kick();
        self.surroundings.gate.wait_for_all(timeout)
    }

    /// The guest goes on.
    pub fn resume(&self) {
        self.surroundings.gate.open();
    }

    /// Ends the processors for good and joins their threads; what they sent has been passed on.
    /// Nothing to do the second time.
    pub fn stop(&mut self) {
        self.surroundings.gate.shut();
        self.kick();
        for processor in &mut self.processors {
            // A thread that panicked has nothing more to say.
            let _ = processor.thread.take().map(JoinHandle::join);
        }
        self.legacy.end_console();
    }

    /// Shows the region at `index` of [`Memory::regions`] to the processors, which may be in the
    /// guest.
    ///
    /// # Errors
    /// [`MachineError::Kvm`]: KVM has no slot left.
    pub fn show(&self, index: usize) -> Result<(), MachineError> {
        let (slot, region) = self.slot(index)?;
        kvm::map(&self.vm, slot, region)
    }

    /// Takes a region from the processors that it was shown to: when this returns, they have it no
    /// more. What they read there is ones.
    ///
    /// # Errors
    /// [`MachineError::Kvm`]: it is not shown.
    pub fn hide(&self, index: usize) -> Result<(), MachineError> {
        let (slot, region) = self.slot(index)?;
        kvm::unmap(&self.vm, slot, region)
    }

    /// Each region has a slot of its own.
    fn slot(&self, index: usize) -> Result<(u32, &GuestRegionMmap), MachineError> {
        let slot = u32::try_from(index).ok();
        slot.zip(self.memory.regions().nth(index)).ok_or_else(|| MachineError::Kvm {
            call: "find the region of memory",
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Readable once the machine ended by itself: [`Self::exit`] then says how.
    #[must_use]
    pub fn exit_event(&self) -> BorrowedFd<'_> {
        self.surroundings.ended.as_fd()
    }

    /// Readable when [`Self::settle_console`] is due.
    #[must_use]
    pub fn console_timer(&self) -> BorrowedFd<'_> {
        self.legacy.console_timer()
    }

    /// Passes on what the guest sent to its console and what waits for more to go with.
    pub fn settle_console(&self) {
        self.legacy.settle_console();
    }

    /// How the machine ended by itself, if it did.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        self.surroundings.gate.exit()
    }

    /// Its numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let total = |reason| self.processors.iter().map(|each| each.exits.of(reason)).sum();
        Stats {
            exits: Reason::NAMES.map(|(reason, name)| (name, total(reason))).into(),
            unknown_mmio: self.surroundings.mmio.unknown(),
            unknown_ports: self.surroundings.ports.unknown(),
            console_lost_bytes: self.legacy.lost_bytes(),
        }
    }

    fn kick(&self) {
        for processor in &self.processors {
            if let Some(thread) = &processor.thread {
                kick::kick(&processor.page, thread);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread of a processor needs.
struct Start {
    index: u8,
    vcpu: Vcpu,
    /// Still to be set, if it is.
    cpuid: Option<CpuId>,
    set_up: SetUp,
    ready: Sender<Result<(), MachineError>>,
}

/// See [`Machine::prepare`].
pub(super) fn prepare(
    machine: Machine,
    entry: impl FnOnce(&mut kvm_regs, &mut kvm_sregs),
    legacy: &Legacy,
    set_up: SetUp,
) -> Result<Running, MachineError> {
    signal::install().map_err(|source| MachineError::Kvm { call: "sigaction", source })?;
    // The last one goes first should this fail: the VM before its memory.
    let Machine { memory, mmio, cpuid, vcpus, vm, .. } = machine;
    let fds: Vec<VcpuFd> = (0..vcpus)
        .map(|index| vm.create_vcpu(index.into()).map_err(MachineError::kvm("KVM_CREATE_VCPU")))
        .collect::<Result<_, _>>()?;
    let surroundings = Arc::new(surroundings(vcpus, mmio, legacy)?);
    let legacy = legacy.clone();
    // From here on, its end joins the threads that there are.
    let mut running = Running { surroundings, processors: Vec::new(), legacy, vm, memory };
    let (ready, readiness) = channel();
    let mut first = None;
    for (index, fd) in (0..).zip(fds) {
        let (page, exits) = (Arc::new(map_page(index, &fd)?), Arc::<Exits>::default());
        let surroundings = Arc::clone(&running.surroundings);
        let vcpu = Vcpu { fd, page: Arc::clone(&page), exits: Arc::clone(&exits), surroundings };
        let cpuid = Some(cpuid::of_vcpu(&cpuid, index, vcpus)?);
        let start = Start { index, vcpu, cpuid, set_up: Arc::clone(&set_up), ready: ready.clone() };
        running.processors.push(Processor { page, exits, thread: None });
        // The others get ready on their own while this thread gets the first one ready.
        if index == 0 {
            first = Some(start);
        } else {
            running.spawn(start)?;
        }
    }
    drop(ready);
    if let Some(mut start) = first {
        start.set_state()?;
        state::set_first(&start.vcpu.fd, entry)?;
        running.spawn(start)?;
    }
    wait_until_ready(&readiness)?;
    Ok(running)
}

fn surroundings(vcpus: u8, mmio: Bus, legacy: &Legacy) -> Result<Surroundings, MachineError> {
    let mut ports = Bus::default();
    legacy.place(&mut ports)?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let ended = EventFd::from_flags(flags).map_err(MachineError::system("eventfd"))?;
    let (gate, reset) = (Gate::new(vcpus.into()), legacy.reset().clone());
    Ok(Surroundings { gate, ended, mmio, ports, reset })
}

fn map_page(index: u8, vcpu: &VcpuFd) -> Result<RunPage, MachineError> {
    let step = "map the exits";
    RunPage::new(vcpu).map_err(|source| MachineError::Thread { step, index, source })
}

fn wait_until_ready(readiness: &Receiver<Result<(), MachineError>>) -> Result<(), MachineError> {
    readiness.iter().collect()
}

impl Running {
    fn spawn(&mut self, start: Start) -> Result<(), MachineError> {
        let index = start.index;
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(STACK_BYTES)
            .spawn(move || start.run())
            .map_err(|source| MachineError::Thread { step: "start the thread", index, source })?;
        if let Some(processor) = self.processors.get_mut(usize::from(index)) {
            processor.thread = Some(thread);
        }
        Ok(())
    }
}

impl Start {
    fn set_state(&mut self) -> Result<(), MachineError> {
        if let Some(cpuid) = self.cpuid.take() {
            self.vcpu.fd.set_cpuid2(&cpuid).map_err(MachineError::kvm("KVM_SET_CPUID2"))?;
            state::set_msrs(&self.vcpu.fd, cpuid::is_amd(&cpuid));
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), MachineError> {
        let index = self.index;
        let failed = |step| move |source| MachineError::Thread { step, index, source };
        signal::unblock().map_err(failed("unblock the signal"))?;
        self.set_state()?;
        (self.set_up)().map_err(failed("set up the thread"))
    }

    fn run(mut self) {
        let surroundings = Arc::clone(&self.vcpu.surroundings);
        let _leave = Leave(&surroundings.gate);
        let outcome = self.prepare();
        let is_ready = outcome.is_ok();
        let told = self.ready.send(outcome).is_ok();
        drop(self.ready);
        if is_ready && told {
            self.vcpu.run();
        }
    }
}

/// Leaves the gate however the thread ends.
struct Leave<'a>(&'a Gate);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}
