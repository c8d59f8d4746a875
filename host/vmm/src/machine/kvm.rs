//! The calls of KVM that need a promise of ours: descriptors from elsewhere, guest memory, and the
//! two that tie events to the guest.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::{
    KVMIO, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_irqfd, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

use super::MachineError;

/// Bytes of a write to QueueNotify. virtio 1.2 §4.2.2: registers are 32 bits wide.
const NOTIFY_LEN: u32 = 4;

mod ioctl {
    use super::{KVMIO, kvm_ioeventfd, kvm_irqfd};

    nix::ioctl_write_ptr!(irqfd, KVMIO, 0x76, kvm_irqfd);
    nix::ioctl_write_ptr!(ioeventfd, KVMIO, 0x79, kvm_ioeventfd);
}

/// The KVM behind an open descriptor; what is behind it shows at the first call.
pub(super) fn adopt(descriptor: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is open, was owned here alone, and is given away.
    unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) }
}

/// Shows a region of memory to the guest. The caller keeps the memory as long as the VM.
pub(super) fn map(vm: &VmFd, slot: u32, region: &GuestRegionMmap) -> Result<(), MachineError> {
    set_slot(vm, slot, region, region.len())
}

/// Takes a region from the guest that it was shown in `slot`: when this returns, no processor has
/// it any more, and one that looks for it leaves the guest as for a register that nobody has.
pub(super) fn unmap(vm: &VmFd, slot: u32, region: &GuestRegionMmap) -> Result<(), MachineError> {
    // Documentation/virt/kvm/api.rst: "Passing zero for memory_size deletes the slot".
    set_slot(vm, slot, region, 0)
}

fn set_slot(vm: &VmFd, slot: u32, region: &GuestRegionMmap, len: u64) -> Result<(), MachineError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: region.start_addr().0,
        memory_size: len,
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the address and the length are those of a whole mapping, or the length is 0, and
    // `Machine` and `Running` hold a handle on it until the VM is gone; guest memory is only ever
    // used as bytes that change at any time.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(MachineError::kvm("KVM_SET_USER_MEMORY_REGION"))
}

/// An event on `event` is an interrupt of the guest from now on.
pub(super) fn irqfd(vm: &VmFd, event: BorrowedFd<'_>, gsi: u32) -> Result<(), MachineError> {
    let failed = MachineError::system("KVM_IRQFD");
    let fd = u32::try_from(event.as_raw_fd()).map_err(|_| failed(nix::Error::EBADF))?;
    let request = kvm_irqfd { fd, gsi, ..kvm_irqfd::default() };
    // SAFETY: `vm` is a VM and `request` a valid structure that outlives the call; KVM holds the
    // file behind `event` itself.
    unsafe { ioctl::irqfd(vm.as_raw_fd(), &raw const request) }.map(drop).map_err(failed)
}

/// A write of `value` to the register at `address` is an event on `event` from now on.
pub(super) fn ioeventfd(
    vm: &VmFd,
    event: BorrowedFd<'_>,
    address: u64,
    value: u32,
) -> Result<(), MachineError> {
    let request = kvm_ioeventfd {
        datamatch: value.into(),
        addr: address,
        len: NOTIFY_LEN,
        fd: event.as_raw_fd(),
        flags: 1 << kvm_ioeventfd_flag_nr_datamatch,
        ..kvm_ioeventfd::default()
    };
    // SAFETY: `vm` is a VM and `request` a valid structure that outlives the call; KVM holds the
    // file behind `event` itself.
    unsafe { ioctl::ioeventfd(vm.as_raw_fd(), &raw const request) }
        .map(drop)
        .map_err(MachineError::system("KVM_IOEVENTFD"))
}
