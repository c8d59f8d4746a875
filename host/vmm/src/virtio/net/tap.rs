//! The tap as a port: an open descriptor of /dev/net/tun with a header before each frame. Knows no
//! queue.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::core::header::HEADER_LEN;
use super::core::{Offloads, Port, Received, Sent};

/// The interface's flags as TUNGETIFF gives them: Ethernet frames, nothing before them, but for a
/// header. linux/if_tun.h.
const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

mod ioctl {
    use nix::libc::{c_int, c_uint, ifreq};

    /// The type of all requests to a tap. linux/if_tun.h.
    const TUN: u8 = b'T';

    // Each number is linux/if_tun.h's; TUNSETOFFLOAD takes its argument by value although it is
    // declared with a pointer.
    nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(TUN, 208, size_of::<c_uint>()));
    nix::ioctl_read!(get_interface, TUN, 210, c_uint);
    nix::ioctl_write_ptr!(set_header_len, TUN, 216, c_int);

    /// TUNGETIFF is declared for an unsigned int and writes an ifreq.
    pub type Interface = ifreq;
}

/// Why a descriptor is not the tap that the device needs.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// It is no tap at all.
    #[error("ask the tap's descriptor for its interface")]
    NotTap(#[source] Errno),
    /// It is one that was opened otherwise.
    #[error(
        "use the tap: its flags are {flags:#x}, without all of IFF_TAP, IFF_NO_PI, IFF_VNET_HDR"
    )]
    Flags {
        /// Those that it has.
        flags: i32,
    },
    /// It cannot be set up.
    #[error("set up the tap: {operation}")]
    SetUp {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: Errno,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Makes the tap behind `descriptor` the device's: not blocking, the header as long as
    /// virtio's, nothing left to the guest yet.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn new(descriptor: OwnedFd) -> Result<Self, TapError> {
        let tap = Self(File::from(descriptor));
        let flags = tap.flags().map_err(TapError::NotTap)?;
        if flags & FLAGS != FLAGS {
            return Err(TapError::Flags { flags });
        }
        let failed = |operation| move |source| TapError::SetUp { operation, source };
        tap.set_nonblocking().map_err(failed("O_NONBLOCK"))?;
        tap.set_header_len().map_err(failed("TUNSETVNETHDRSZ"))?;
        tap.set_offloads(Offloads::default()).map_err(failed("TUNSETOFFLOAD"))?;
        Ok(tap)
    }

    fn flags(&self) -> Result<i32, Errno> {
        // SAFETY: an ifreq is integers, arrays and pointers that are only compared: zeroes are one.
        let mut interface: ioctl::Interface = unsafe { std::mem::zeroed() };
        let argument = (&raw mut interface).cast();
        // SAFETY: TUNGETIFF writes an ifreq, which `interface` is, or nothing on other descriptors:
        // no other driver has the request's type and number.
        unsafe { ioctl::get_interface(self.0.as_raw_fd(), argument) }?;
        // SAFETY: TUNGETIFF fills in this variant, and each bit pattern is an integer.
        Ok(i32::from(unsafe { interface.ifr_ifru.ifru_flags }))
    }

    fn set_nonblocking(&self) -> Result<(), Errno> {
        let flags = OFlag::from_bits_retain(fcntl(&self.0, FcntlArg::F_GETFL)?);
        fcntl(&self.0, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
    }

    fn set_header_len(&self) -> Result<(), Errno> {
        let len = i32::try_from(HEADER_LEN).expect("a header is 12 bytes long");
        // SAFETY: TUNSETVNETHDRSZ reads an int, which outlives the call.
        unsafe { ioctl::set_header_len(self.0.as_raw_fd(), &len) }.map(drop)
    }

    /// Says what may be left to whoever reads from the tap.
    ///
    /// # Errors
    /// Those of TUNSETOFFLOAD.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), Errno> {
        // SAFETY: TUNSETOFFLOAD takes a number, and touches no memory of ours.
        unsafe { ioctl::set_offload(self.0.as_raw_fd(), offload_bits(offloads)) }.map(drop)
    }
}

/// `TUN_F_…`, linux/if_tun.h. The kernel knows segments only with checksums.
fn offload_bits(offloads: Offloads) -> i32 {
    let bits = [
        (offloads.checksum, libc::TUN_F_CSUM),
        (offloads.checksum && offloads.tso4, libc::TUN_F_TSO4),
        (offloads.checksum && offloads.tso6, libc::TUN_F_TSO6),
    ];
    let wanted = bits.into_iter().filter(|(wanted, _)| *wanted);
    wanted.fold(0, |all, (_, bit)| all | i32::try_from(bit).unwrap_or(0))
}

impl Port for Tap {
    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            match self.0.read(buffer) {
                // Never seen; a packet that is none would be asked for again and again.
                Ok(0) => return Received::Failed,
                Ok(len) => return Received::Packet(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Received::Nothing;
                }
                Err(error) => {
                    tracing::debug!(%error, "no packet from the tap");
                    return Received::Failed;
                }
            }
        }
    }

    fn send(&mut self, packet: &[u8]) -> Sent {
        loop {
            match self.0.write(packet) {
                Ok(_) => return Sent::Done,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Full,
                // The interface is down or gone, or the kernel finds no sense in the packet.
                Err(error) => {
                    tracing::debug!(%error, "packet refused by the tap");
                    return Sent::Refused;
                }
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Makes taps, as the parent of the process does.

    use std::fs::OpenOptions;

    use super::{AsRawFd, FLAGS, OwnedFd, ioctl};

    nix::ioctl_write_ptr!(set_interface, b'T', 202, nix::libc::c_int);

    /// A tap with these flags beside IFF_TAP's, in the namespace of the thread; the reason why not.
    pub fn create(name: &str, flags: i32) -> Result<OwnedFd, String> {
        let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let tun = tun.map_err(|error| format!("/dev/net/tun: {error}"))?;
        // SAFETY: an ifreq is integers, arrays and pointers that are only compared.
        let mut interface: ioctl::Interface = unsafe { std::mem::zeroed() };
        for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes()) {
            *to = i8::try_from(from).unwrap();
        }
        interface.ifr_ifru.ifru_flags = i16::try_from(FLAGS & flags).unwrap();
        let argument = (&raw const interface).cast();
        // SAFETY: TUNSETIFF reads an ifreq, which outlives the call.
        unsafe { set_interface(tun.as_raw_fd(), argument) }
            .map_err(|error| format!("TUNSETIFF: {error}"))?;
        Ok(tun.into())
    }
}
