//! A tap in a network namespace of its own, whose other end is this kernel with the address
//! 10.0.0.1: it answers ARP and pings. Needs root.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// TUNSETIFF, TUNSETVNETHDRSZ. Linux include/uapi/linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
/// IFF_TAP, IFF_NO_PI, IFF_VNET_HDR.
const FLAGS: libc::c_short = 0x0002 | 0x1000 | 0x4000;
/// virtio_net_hdr_v1.
const HEADER_LEN: libc::c_int = 12;
const NAME: &str = "tap0";

/// See the module.
#[derive(Debug)]
pub struct Tap {
    tap: OwnedFd,
}

impl Tap {
    /// A new one.
    ///
    /// # Errors
    /// Who may not, or has no tun driver.
    pub fn new() -> io::Result<Self> {
        // The namespace lives for as long as the tap does; the thread is gone.
        let made = std::thread::spawn(Self::make).join();
        made.map_err(|_| io::Error::other("the thread of the network namespace panicked"))?
    }

    fn make() -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        // Else this kernel speaks unasked: it looks for neighbours and routers. A kernel without
        // IPv6 has no such file.
        for scope in ["all", "default"] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: an ifreq of zeroes is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = FLAGS;
        // SAFETY: the request is an ifreq that outlives the call.
        check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        let len = HEADER_LEN;
        // SAFETY: the kernel reads an int that outlives the call.
        check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETVNETHDRSZ, &raw const len) })?;
        for words in [
            &["link", "set", "lo", "up"][..],
            &["addr", "add", "10.0.0.1/24", "dev", NAME],
            &["link", "set", NAME, "up"],
        ] {
            let status = Command::new("ip").args(words).status()?;
            if !status.success() {
                return Err(io::Error::other(format!("ip {}", words.join(" "))));
            }
        }
        Ok(Self { tap: tap.into() })
    }

    /// The tap.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.tap
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
