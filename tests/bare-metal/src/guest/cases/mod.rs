//! The cases, by name.

mod balloon;
mod blk;
mod console;
mod fs;
mod hostile;
mod machine;
mod mem;
mod net;
mod rings;
mod rng;
mod speed;
mod vsock;

use super::boot;
use super::virtio::{Device, kind};

/// All of one room.
type Cases = &'static [(&'static str, fn())];

const ROOMS: [Cases; 12] = [
    balloon::CASES,
    blk::CASES,
    console::CASES,
    fs::CASES,
    hostile::CASES,
    machine::CASES,
    mem::CASES,
    net::CASES,
    rings::CASES,
    rng::CASES,
    speed::CASES,
    vsock::CASES,
];

/// Runs the case that the command line names.
pub fn run() {
    let name = boot::word("case").expect("the command line has case=NAME");
    let mut cases = ROOMS.into_iter().flatten();
    let (_, case) = cases.find(|(known, _)| *known == name).expect("a case has this name");
    case();
}

/// The device whose registers are asked for when any would do.
fn rng_device() -> Device {
    Device::find(kind::ENTROPY)
}
