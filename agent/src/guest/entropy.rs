//! Randomness from the host: random(4). Guests that were restored from one snapshot would otherwise
//! draw the same numbers.

use std::{fs::File, os::fd::AsFd};

use super::{GuestError, Result};
use crate::sys;

const DEVICE: &str = "/dev/random";
/// What the generator's key has room for, and what is more than enough.
const MIN_SEED_LEN: usize = 16;
const MAX_SEED_LEN: usize = sys::random::MAX_SEED_LEN;

/// Credits the seed and makes the generator use it at once. Blocks.
///
/// # Errors
/// [`GuestError`].
pub fn reseed(seed: &[u8]) -> Result<()> {
    if !(MIN_SEED_LEN..=MAX_SEED_LEN).contains(&seed.len()) {
        let reason = format!("has {} bytes, not {MIN_SEED_LEN} to {MAX_SEED_LEN}", seed.len());
        return Err(GuestError::invalid("seed", reason));
    }
    let device =
        File::options().write(true).open(DEVICE).map_err(GuestError::call("open", DEVICE))?;
    sys::random::add(device.as_fd(), seed)
        .and_then(|()| sys::random::reseed(device.as_fd()))
        .map_err(GuestError::call("reseed", DEVICE))
}
