//! PID 1 that connects to the host by vsock and then ends the virtual machine: the earliest
//! that any agent can announce itself.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// The host, vsock(7), `VMADDR_CID_HOST`.
const HOST_CID: u32 = 2;
/// The port that the bench listens on.
const PORT: u32 = 1024;

fn main() {
    if let Err(errno) = announce() {
        eprintln!("vsock-init: connect to port {PORT} of the host: {errno}");
    }
    let errno = husk_guest_inits::end_vm();
    eprintln!("vsock-init: restart: {errno}");
}

fn announce() -> nix::Result<()> {
    let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &VsockAddr::new(HOST_CID, PORT))
}
