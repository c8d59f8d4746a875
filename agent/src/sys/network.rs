//! Interface flags: netdevice(7).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::Result;

/// linux/sockios.h. The package's own has a type that ioctl(2) of musl does not take.
const SIOCSIFFLAGS: libc::Ioctl = 0x8914;

/// Sets `IFF_UP` and `IFF_RUNNING` on an interface of the socket's network namespace.
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn bring_up(socket: BorrowedFd<'_>, interface: &str) -> Result<()> {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays for the terminator.
    if interface.len() >= request.ifr_name.len() {
        return Err(Errno::ENODEV);
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte.cast_signed();
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| Errno::EINVAL)?;
    // SAFETY: SIOCSIFFLAGS reads one ifreq with name and flags, both set above.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop)
}
