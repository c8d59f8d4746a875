//! Interfaces of the guest and of containers. So far: loopback.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::sys;

/// Raises `lo` in the caller's network namespace.
///
/// # Errors
/// As socket(2) and netdevice(7).
pub fn raise_loopback() -> sys::Result<()> {
    use std::os::fd::AsFd;
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    sys::network::bring_up(any.as_fd(), "lo")
}
