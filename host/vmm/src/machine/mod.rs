//! The virtual machine: KVM, its memory and interrupts, its processors and their threads.
//!
//! ```text
//! Machine::new --attach*--> Machine --prepare--> Running --stop--> (threads joined)
//!                                                Paused <--pause/resume--> Running
//! ```
//!
//! While it is paused, and before its first resume, no processor is in the guest.
//!
//! A machine ends by itself by an [`Exit`], which its exit event tells; its threads are there until
//! it is stopped. Knows no device: it is given registers, an interrupt and kicks.

mod cpuid;
mod error;
mod exit;
mod gate;
mod kick;
mod kvm;
mod running;
mod state;
mod vcpu;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY,
    KVM_PMU_CAP_DISABLE, kvm_enable_cap, kvm_pit_config, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use nix::sys::eventfd::EventFd;

pub use error::MachineError;
pub use exit::Exit;
pub use running::{Running, SetUp, Stats};

use crate::bus::{Bus, Registers};
use crate::legacy::Legacy;
use crate::virtio::mmio::Transport;
use crate::virtio::mmio::registers::QUEUE_NOTIFY;
use crate::{Memory, layout};

/// What the machine cannot do without. Documentation/virt/kvm/api.rst has each.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Where a device went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// First address of its registers.
    pub address: u64,
    /// Its interrupt.
    pub gsi: u32,
}

/// A machine that does not run yet.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: the VM before the memory that it uses.
    vm: VmFd,
    memory: Memory,
    mmio: Bus,
    cpuid: CpuId,
    vcpus: u8,
    devices: usize,
}

impl Machine {
    /// A machine with the memory that is there and so many processors, on `kvm`, which is an open
    /// `/dev/kvm`.
    ///
    /// # Errors
    /// [`MachineError`]: this KVM cannot, or does not want to.
    pub fn new(kvm: OwnedFd, memory: &Memory, vcpus: u8) -> Result<Self, MachineError> {
        let kvm = kvm::adopt(kvm);
        check(&kvm, vcpus)?;
        let vm = kvm.create_vm().map_err(MachineError::kvm("KVM_CREATE_VM"))?;
        // Memory first: changing it waits until nobody reads the old map, and the fewer readers
        // there are the shorter that is.
        for (slot, region) in (0..).zip(memory.regions()) {
            if memory.is_there(region) {
                kvm::map(&vm, slot, region)?;
            }
        }
        make_chips(&vm)?;
        disable_pmu(&vm);
        let mut cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(MachineError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
        if kvm.check_extension(Cap::TscDeadlineTimer) {
            cpuid::add_deadline_timer(&mut cpuid);
        }
        let memory = memory.clone();
        Ok(Self { vm, memory, mmio: Bus::default(), cpuid, vcpus, devices: 0 })
    }

    /// Puts a device into the next place; see [`Self::attach_registers`].
    ///
    /// # Errors
    /// [`MachineError`]: there is no place left, or KVM refuses.
    pub fn attach(&mut self, transport: &Arc<Transport>) -> Result<Slot, MachineError> {
        let registers = Arc::clone(transport);
        self.attach_registers(registers, transport.interrupt().as_fd(), transport.kicks())
    }

    /// Puts registers into the next place: they answer there, the interrupt reaches the guest, and
    /// a write of the number of a queue to QueueNotify is an event on its kick, without an exit to
    /// this process.
    ///
    /// # Errors
    /// [`MachineError`]: there is no place left, or KVM refuses.
    pub fn attach_registers(
        &mut self,
        registers: Arc<dyn Registers>,
        interrupt: BorrowedFd<'_>,
        kicks: &[EventFd],
    ) -> Result<Slot, MachineError> {
        let slot = Slot::at(self.devices).ok_or(MachineError::NoPlace)?;
        self.mmio.insert(slot.address, layout::VIRTIO_STRIDE, registers)?;
        kvm::irqfd(&self.vm, interrupt, slot.gsi)?;
        for (queue, kick) in (0..).zip(kicks) {
            kvm::ioeventfd(&self.vm, kick.as_fd(), slot.address + QUEUE_NOTIFY, queue)?;
        }
        self.devices += 1;
        Ok(slot)
    }

    /// Makes the processors and their threads, which wait for [`Running::resume`]. The first one
    /// begins with the registers that `entry` sets, the others wait for it to wake them. Each
    /// thread does `set_up` before the guest's first instruction, such as to give up system calls.
    ///
    /// # Errors
    /// [`MachineError`]: there are no threads.
    pub fn prepare(
        self,
        entry: impl FnOnce(&mut kvm_regs, &mut kvm_sregs),
        legacy: &Legacy,
        set_up: SetUp,
    ) -> Result<Running, MachineError> {
        kvm::irqfd(&self.vm, legacy.serial_interrupt(), layout::SERIAL_GSI)?;
        running::prepare(self, entry, legacy, set_up)
    }
}

impl Slot {
    /// The place of the device at `index`, if there is one.
    #[must_use]
    pub fn at(index: usize) -> Option<Self> {
        if index >= layout::MAX_VIRTIO_DEVICES {
            return None;
        }
        let gsi = layout::VIRTIO_FIRST_GSI + u32::try_from(index).ok()?;
        let address = layout::VIRTIO_BASE + layout::VIRTIO_STRIDE * u64::try_from(index).ok()?;
        Some(Self { address, gsi })
    }
}

fn check(kvm: &Kvm, vcpus: u8) -> Result<(), MachineError> {
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(MachineError::Version(version));
    }
    if let Some((_, name)) = NEEDED.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return Err(MachineError::Capability(name));
    }
    let limit = kvm.get_max_vcpus();
    if vcpus == 0 || usize::from(vcpus) > limit {
        return Err(MachineError::Vcpus { wanted: vcpus, limit });
    }
    Ok(())
}

/// The interrupt controllers and the timer.
fn make_chips(vm: &VmFd) -> Result<(), MachineError> {
    let tss = usize::try_from(layout::KVM_TSS).map_err(|_| MachineError::NoPlace)?;
    vm.set_tss_address(tss).map_err(MachineError::kvm("KVM_SET_TSS_ADDR"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(MachineError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.create_irq_chip().map_err(MachineError::kvm("KVM_CREATE_IRQCHIP"))?;
    // The speaker port has bits that kernels use to calibrate, so something answers there.
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
    vm.create_pit2(pit).map_err(MachineError::kvm("KVM_CREATE_PIT2"))
}

/// Performance counters show a guest what its neighbours do. KVM before 5.18 cannot take them away;
/// the processors then at least do not announce them.
fn disable_pmu(vm: &VmFd) {
    let args = [u64::from(KVM_PMU_CAP_DISABLE), 0, 0, 0];
    let cap = kvm_enable_cap { cap: KVM_CAP_PMU_CAPABILITY, args, ..kvm_enable_cap::default() };
    let _ = vm.enable_cap(&cap);
}
