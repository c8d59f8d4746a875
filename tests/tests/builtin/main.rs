//! The main job on the built-in VMM, as a user types it: whole boots of Linux on `/dev/kvm`.
//!
//! Where KVM runs kernel code on the hardware, the end-to-end suite runs on the built-in VMM as a
//! whole, and this is a part of it. Where it only emulates, a boot takes most of a minute, and with
//! the product's kernel it does not come to its end: there `HUSK_TEST_KERNEL` names a kernel that
//! does, and the cases are few and do much. Skipped, loudly, where neither is there.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped is a failed case")]

mod devices;
mod main_job;

use std::path::PathBuf;
use std::time::Duration;

use husk::hypervisor::{Choice, survey};
use husk_tests::Bed;
use husk_tests::hypervisor::test_kernel;
use husk_tests::run::Run;
use husk_tests::wait::patience;

/// An emulated kernel takes most of a minute to boot, and a second for each new process.
const DEADLINE: Duration = Duration::from_secs(400);

/// The kernel that comes up on the built-in VMM here, `None` for the product's own, or why there is
/// none.
fn kernel() -> Result<Option<PathBuf>, String> {
    let kvm = survey::kvm();
    match test_kernel() {
        Some(_) if !kvm.found.contains("KVM") => Err(kvm.found),
        Some(kernel) => Ok(Some(kernel)),
        None if kvm.works => Ok(None),
        None => Err(format!("{}, and HUSK_TEST_KERNEL names no kernel for it", kvm.found)),
    }
}

/// An installation whose containers run on the built-in VMM.
struct Builtin {
    bed: Bed,
}

impl Builtin {
    /// Or why there is none on this machine.
    fn find() -> Result<Self, String> {
        kernel().map(|_| Self { bed: Bed::on(Choice::Kvm) })
    }

    fn husk(&self, words: &[&str]) -> Run<'_> {
        let timeout = (DEADLINE * patience()).as_secs().to_string();
        self.bed.husk(words).env("HUSK_GUEST_TIMEOUT", timeout).deadline(DEADLINE)
    }
}

macro_rules! builtin_or_skip {
    () => {
        match crate::Builtin::find() {
            Ok(builtin) => builtin,
            Err(reason) => {
                eprintln!("SKIPPED: {reason}");
                return;
            }
        }
    };
}
use builtin_or_skip;
