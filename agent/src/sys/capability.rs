//! The three thread sets of capabilities in one call; the other two sets are prctl(2)'s.
#![allow(unsafe_code)]

use nix::errno::Errno;

use super::Result;

/// `_LINUX_CAPABILITY_VERSION_3`, linux/capability.h.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The low or the high half of a set.
fn half(set: u64, index: u32) -> u32 {
    u32::try_from((set >> (32 * index)) & u64::from(u32::MAX)).unwrap_or_default()
}

/// Sets the calling thread's effective, permitted and inheritable capabilities. Bit n is the
/// capability of number n.
///
/// # Errors
/// `EPERM` when a set would grow beyond what capabilities(7) allows.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [0, 1].map(|index| Half {
        effective: half(effective, index),
        permitted: half(permitted, index),
        inheritable: half(inheritable, index),
    });
    // SAFETY: version 3 reads one header and two data structures, laid out as the kernel has them.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Takes a capability out of the calling thread's bounding set.
///
/// # Errors
/// As prctl(2): `EINVAL` for one that the kernel does not know.
pub fn drop_bounding(number: u32) -> Result<()> {
    // SAFETY: `PR_CAPBSET_DROP` takes a number and reads no memory.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number)) };
    Errno::result(result).map(drop)
}

/// Puts a capability into the calling thread's ambient set.
///
/// # Errors
/// As prctl(2): `EPERM` for one that is not permitted and inheritable, `EINVAL` for one that the
/// kernel does not know.
pub fn raise_ambient(number: u32) -> Result<()> {
    let [raise, number] =
        [libc::PR_CAP_AMBIENT_RAISE, number.cast_signed()].map(libc::c_long::from);
    // SAFETY: `PR_CAP_AMBIENT` takes numbers and reads no memory.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, number, 0_i64, 0_i64) };
    Errno::result(result).map(drop)
}
