//! Tells the host that the guest is up, as early as the kernel allows.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use husk_protocols::{
    handshake::Hello,
    port::{ANNOUNCE_PORT, CONSOLE_PORT, HOST_CID, STREAM_PORT},
};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, listen, socket,
    },
    time::{ClockId, clock_gettime},
};
use tokio_vsock::VMADDR_CID_ANY;

/// Why the host cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// Streams cannot be received.
    #[error("listen on vsock port {STREAM_PORT}")]
    Listen(#[source] Errno),
    /// The debug console cannot be offered.
    #[error("listen on vsock port {CONSOLE_PORT}")]
    Console(#[source] Errno),
    /// Nobody is there.
    #[error("connect to the host on vsock port {ANNOUNCE_PORT}")]
    Connect(#[source] Errno),
    /// It does not listen.
    #[error("write the greeting")]
    Greet(#[source] io::Error),
}

/// Sockets that blocking code has opened.
pub struct Announced {
    /// Carries ttrpc from here on.
    pub connection: OwnedFd,
    /// Streams arrive here.
    pub listener: OwnedFd,
}

/// Listens for streams, connects, and greets. Blocks until the host has accepted.
pub fn announce() -> Result<Announced, AnnounceError> {
    // First of all: later would say less about the kernel.
    let boot_us = since_boot_us();
    let listener = listening(STREAM_PORT).map_err(AnnounceError::Listen)?;
    let connection = vsock_socket().map_err(AnnounceError::Connect)?;
    connect(connection.as_raw_fd(), &VsockAddr::new(HOST_CID, ANNOUNCE_PORT))
        .map_err(AnnounceError::Connect)?;
    let connection = File::from(connection);
    Hello::new(env!("CARGO_PKG_VERSION"), boot_us, since_boot_us().saturating_sub(boot_us))
        .write_to(&connection)
        .map_err(AnnounceError::Greet)?;
    Ok(Announced { connection: connection.into(), listener })
}

fn vsock_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

/// Listens for debug consoles.
pub fn listen_for_consoles() -> Result<OwnedFd, AnnounceError> {
    listening(CONSOLE_PORT).map_err(AnnounceError::Console)
}

fn listening(port: u32) -> Result<OwnedFd, Errno> {
    let socket = vsock_socket()?;
    bind(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, port))?;
    // As many as the kernel lets wait: a hundred execs at once bring three hundred streams before
    // the agent gets to accept one, and those beyond the backlog would be reset.
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket)
}

fn since_boot_us() -> u32 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .map(std::time::Duration::from)
        .and_then(|uptime| u32::try_from(uptime.as_micros()).ok())
        .unwrap_or_default()
}
