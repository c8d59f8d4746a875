//! The kernel's random number generator: random(4).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::Result;

/// linux/random.h.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Longest seed, in bytes.
pub const MAX_SEED_LEN: usize = 512;

/// `struct rand_pool_info` with room for a seed.
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    len: libc::c_int,
    bytes: [u8; MAX_SEED_LEN],
}

/// Adds a seed, every bit of which counts as random.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` for a seed that is too long.
pub fn add(device: BorrowedFd<'_>, seed: &[u8]) -> Result<()> {
    let len = libc::c_int::try_from(seed.len()).map_err(|_| Errno::EINVAL)?;
    let mut pool = Pool { entropy_bits: len.saturating_mul(8), len, bytes: [0; MAX_SEED_LEN] };
    pool.bytes.get_mut(..seed.len()).ok_or(Errno::EINVAL)?.copy_from_slice(seed);
    // SAFETY: RNDADDENTROPY reads two integers and then `len` bytes, which the array holds.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) };
    Errno::result(result).map(drop)
}

/// Makes the generator take a new key out of what was added.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn reseed(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: RNDRESEEDCRNG takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) }).map(drop)
}
