//! How a thread is made to leave the guest, and what KVM says of an exit beyond what kvm-ioctls
//! hands out. No kick is lost: the flag in `kvm_run` ends the next KVM_RUN, and the signal the one
//! that already is under way.

#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::num::NonZeroUsize;
use std::os::unix::thread::JoinHandleExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::{
    kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_4, kvm_run__bindgen_ty_1__bindgen_ty_13,
};
use kvm_ioctls::VcpuFd;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsRawFd, BorrowedFd};

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
        // SAFETY: the byte is in the mapping, which lives as long as `self`, is valid for any value,
        // and is only used through this function.
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
        // SAFETY: the mapping was made by `new` with this length, and nobody has a reference into it
        // any more. It can only fail for an address that is none.
        let _ = unsafe { munmap(self.page.cast(), Self::LEN.get()) };
    }
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// Gives `SIGRTMIN` an action that does nothing, so that it interrupts KVM_RUN and harms nobody.
pub(super) fn install_signal() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = do_nothing;
    let action = libc::sigaction {
        sa_sigaction: handler as libc::sighandler_t,
        sa_mask: no_signals(),
        sa_flags: 0,
        sa_restorer: None,
    };
    // SAFETY: `action` outlives the call, the old action is not asked for, and the handler touches
    // nothing, so it may run at any point of any thread.
    match unsafe { libc::sigaction(libc::SIGRTMIN(), &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the signal reach this thread, whatever mask the process was started with.
pub(super) fn unblock_signal() -> io::Result<()> {
    let mut signals = no_signals();
    // SAFETY: `signals` is a set that was made empty, and outlives the call.
    if unsafe { libc::sigaddset(&raw mut signals, libc::SIGRTMIN()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `signals` outlives the call, and the old mask is not asked for.
    let result = unsafe {
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        error => Err(Errno::from_raw(error).into()),
    }
}

fn no_signals() -> libc::sigset_t {
    let mut signals = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is to a set that may be written.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: a set is numbers, and all of them were written.
    unsafe { signals.assume_init() }
}

/// Makes a thread that runs the virtual CPU of `page` leave the guest, or not enter it.
pub(super) fn kick<T>(page: &RunPage, thread: &JoinHandle<T>) {
    page.ask_to_exit();
    // SAFETY: the thread was not joined, so its id is its own. It may have ended: then the signal
    // goes nowhere.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGRTMIN()) };
}
