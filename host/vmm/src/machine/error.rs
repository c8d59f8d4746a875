//! Why there is no machine.

use std::io;

use kvm_bindings::KVM_API_VERSION;

use crate::bus::PlaceError;
use crate::layout::MAX_VIRTIO_DEVICES;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// This is another KVM, or none at all.
    #[error("use KVM: its version is {0}, not {KVM_API_VERSION}")]
    Version(i32),
    /// It is too old, or made for something else.
    #[error("use KVM: it lacks {0}")]
    Capability(&'static str),
    /// No processors, or too many.
    #[error("create {wanted} virtual CPUs: KVM has 1 to {limit}")]
    Vcpus {
        /// So many were asked for.
        wanted: u8,
        /// So many are possible.
        limit: usize,
    },
    /// KVM refused.
    #[error("{call}")]
    Kvm {
        /// What it was asked.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest's interrupts are all in use.
    #[error("attach device: a machine has {MAX_VIRTIO_DEVICES} at most")]
    NoPlace,
    /// Two devices at one address.
    #[error(transparent)]
    Address(#[from] PlaceError),
    /// No thread, or it could not get ready.
    #[error("{step} of virtual CPU {index}")]
    Thread {
        /// What was to be done.
        step: &'static str,
        /// The processor.
        index: u8,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl MachineError {
    /// Of an ioctl.
    pub(super) fn kvm(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { call, source: io::Error::from_raw_os_error(error.errno()) }
    }

    /// Of another system call.
    pub(super) fn system(call: &'static str) -> impl Fn(nix::Error) -> Self {
        move |error| Self::Kvm { call, source: error.into() }
    }
}
