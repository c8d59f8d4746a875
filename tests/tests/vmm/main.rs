//! The built-in VMM as its guests find it: bare-metal guests on the real /dev/kvm, in the VMM's
//! real process with its jail and its filters. Most take milliseconds.
//!
//! Skipped, loudly, where /dev/kvm does not open.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped is a failed case")]

mod balloon;
mod blk;
mod console;
mod fs;
mod hostile;
mod jail;
mod life;
mod machine;
mod mem;
mod net;
mod rings;
mod rng;
mod same;
mod speed;
mod vsock;

use std::time::Duration;

use husk_tests::bare_bed::{Ended, Guest, Setup};

/// Of one guest, on a busy machine with a slow KVM.
const DEADLINE: Duration = Duration::from_secs(120);

/// KVM's device, or the end of the test.
macro_rules! kvm_or_skip {
    () => {
        match husk_tests::bare_bed::open_kvm() {
            Ok(kvm) => kvm,
            Err(reason) => {
                eprintln!("SKIPPED: {reason}");
                return;
            }
        }
    };
}
use kvm_or_skip;

fn start(setup: &Setup, kvm: std::fs::File) -> Guest {
    Guest::start(setup, kvm).expect("the VMM's process starts")
}

/// Runs a guest to its end, which must be its own and a good one.
fn pass(setup: &Setup) -> Option<Ended> {
    let kvm = match husk_tests::bare_bed::open_kvm() {
        Ok(kvm) => kvm,
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
    };
    let ended = start(setup, kvm).finish(DEADLINE);
    ended.expect_passed();
    Some(ended)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
