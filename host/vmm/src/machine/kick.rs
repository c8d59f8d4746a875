//! How a thread is made to leave the guest, and what KVM says of an exit beyond what kvm-ioctls
//! hands out. No kick is lost: the flag in `kvm_run` ends the next KVM_RUN, and the signal the one
//! that already is under way.

#![allow(unsafe_code)]

use std::io;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::{
    kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_4, kvm_run__bindgen_ty_1__bindgen_ty_13,
};
use kvm_ioctls::VcpuFd;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::signal;

/// What KVM says of the port access that it stopped at.
type IoExit = kvm_run__bindgen_ty_1__bindgen_ty_4;
/// What KVM says when it gives up.
pub(super) type InternalError = kvm_run__bindgen_ty_1__bindgen_ty_13;

/// A mapping of our own of the page that a virtual CPU shares with KVM: kvm-ioctls has another, and
/// uses it from the CPU's thread alone.
#[derive(Debug)]
pub(super) struct RunPage {
    page: NonNull<kvm_run>,
}

// SAFETY: the mapping is the process's, and every access to it is an atomic or a volatile one.
unsafe impl Send for RunPage {}
// SAFETY: as for `Send`.
unsafe impl Sync for RunPage {}

impl RunPage {
    const LEN: NonZeroUsize = NonZeroUsize::new(size_of::<kvm_run>()).expect("it has fields");

    /// Maps the page of `vcpu`.
    pub fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: `vcpu` is open, and stays so for the call.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let page = unsafe { mmap(None, Self::LEN, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { page: page.cast() })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        let offset = offset_of!(kvm_run, immediate_exit);
        let flag = self.page.as_ptr().wrapping_byte_add(offset).cast::<u8>();
        // SAFETY: the byte is in the mapping, which lives as long as `self`, is valid for any
        // value, and is only used through this function.
        unsafe { AtomicU8::from_ptr(flag) }
    }

    /// The next KVM_RUN returns at once, and every one after it.
    pub fn ask_to_exit(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// KVM_RUN enters the guest again.
    pub fn allow_entry(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    /// Bytes of one access, when a port access is what KVM stopped at: a string instruction has
    /// several in one exit.
    pub fn port_access_len(&self) -> usize {
        let offset = offset_of!(kvm_run, __bindgen_anon_1);
        let place = self.page.as_ptr().wrapping_byte_add(offset).cast::<IoExit>();
        // SAFETY: the union is in the mapping and aligned for each of its members, all of which are
        // plain numbers.
        let exit = unsafe { place.read_volatile() };
        exit.size.into()
    }

    /// Why KVM gave up, when that is what it said.
    pub fn internal_error(&self) -> InternalError {
        let offset = offset_of!(kvm_run, __bindgen_anon_1);
        let place = self.page.as_ptr().wrapping_byte_add(offset).cast::<InternalError>();
        // SAFETY: as for a port access.
        unsafe { place.read_volatile() }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nobody has a reference into
        // it any more. It can only fail for an address that is none.
        let _ = unsafe { munmap(self.page.cast(), Self::LEN.get()) };
    }
}

/// Makes a thread that runs the virtual CPU of `page` leave the guest, or not enter it.
pub(super) fn kick<T>(page: &RunPage, thread: &JoinHandle<T>) {
    page.ask_to_exit();
    signal::send(thread);
}
