//! PID 1 of a guest that husk must not trust. /mode says what it does; then it sleeps, or ends
//! the virtual machine.
//!
//! ```text
//! silent     nothing at all
//! off        ends the virtual machine at once
//! flood      writes to the console for as long as it takes to overflow any log, then ends
//! close      connects and hangs up
//! garbage    connects and speaks another protocol
//! version    announces an agent of a later protocol
//! hello-off  announces a proper agent, then ends
//! giant      announces a proper agent, then answers with a frame of 4 GiB
//! nonsense   announces a proper agent, then answers with random bytes in proper frames
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;

use husk_protocols::handshake::Hello;
use husk_protocols::port::{ANNOUNCE_PORT, HOST_CID};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// More than husk keeps of a console.
const FLOOD_LINES: u32 = 4000;
/// ttrpc's frame header: length, stream, type, flags.
const FRAME_HEADER: usize = 10;
/// ttrpc's type of a response.
const RESPONSE: u8 = 2;

fn main() {
    let mode = fs::read_to_string("/mode").unwrap_or_default();
    if let Err(error) = behave(mode.trim()) {
        eprintln!("hostile-init: {mode}: {error}");
    }
    loop {
        sleep(Duration::from_secs(1000));
    }
}

fn behave(mode: &str) -> io::Result<()> {
    match mode {
        "off" => end(),
        "flood" => {
            let line = [b'x'; 1000];
            for number in 0..FLOOD_LINES {
                let mut out = io::stderr();
                out.write_all(&line)?;
                writeln!(out, " {number}")?;
            }
            end()
        }
        "close" => host().map(drop),
        "garbage" => {
            let mut host = host()?;
            host.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4294967295\r\n\r\n")?;
            host.read(&mut [0; 64]).map(drop)
        }
        "version" => {
            let mut host = host()?;
            Hello { protocol: 77, ..Hello::new("9.9.9", 0, 0) }.write_to(&mut host)?;
            host.read(&mut [0; 64]).map(drop)
        }
        "hello-off" => {
            announced()?;
            end()
        }
        "giant" => answer(u32::MAX, &[0xff; 4096]),
        "nonsense" => answer(512, &[0xa7; 512]),
        _ => Ok(()),
    }
}

fn end() -> io::Result<()> {
    Err(husk_guest_inits::end_vm().into())
}

fn host() -> io::Result<File> {
    let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &VsockAddr::new(HOST_CID, ANNOUNCE_PORT))?;
    Ok(File::from(fd))
}

fn announced() -> io::Result<File> {
    let mut host = host()?;
    Hello::new("0.0.1", 0, 0).write_to(&mut host)?;
    Ok(host)
}

/// Answers every request with a frame that claims `len` bytes and has those of `body`.
fn answer(len: u32, body: &[u8]) -> io::Result<()> {
    let mut host = announced()?;
    loop {
        let mut header = [0; FRAME_HEADER];
        host.read_exact(&mut header)?;
        let [a, b, c, d, stream @ .., _, _] = header;
        let request_len = u64::from(u32::from_be_bytes([a, b, c, d]));
        io::copy(&mut (&mut host).take(request_len), &mut io::sink())?;
        host.write_all(&len.to_be_bytes())?;
        host.write_all(&stream)?;
        host.write_all(&[RESPONSE, 0])?;
        host.write_all(body)?;
    }
}
