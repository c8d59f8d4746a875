//! The vsock device, with the host's end in this process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use husk_tests::bare_bed::{Ended, Setup, open_kvm};
use husk_vmm::control::Request;
use husk_vmm::vsock::VsockHandle;

use super::{DEADLINE, start};

const PORT: u32 = 5000;
const ACCEPT: Duration = Duration::from_millis(100);

pub fn setup(case: &str) -> Setup {
    Setup { rng: false, vsock: true, start_paused: true, ..Setup::new(case) }
}

/// A thread that gives each connection of the guest to one of its own. Ends with the guest, which
/// the listener outlives.
pub fn serve(vsock: &VsockHandle, on_stream: fn(UnixStream)) -> JoinHandle<()> {
    let listener = vsock.listen(PORT, 2048).unwrap();
    thread::spawn(move || {
        loop {
            match listener.accept(ACCEPT) {
                Ok(Some(stream)) => {
                    thread::spawn(move || on_stream(stream));
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
    })
}

/// Runs a guest to its end, which must be a good one, with a thread of the host's that must end
/// well.
pub fn pass_with(case: &str, host: impl FnOnce(&VsockHandle) -> JoinHandle<()>) -> Option<Ended> {
    let kvm = match open_kvm() {
        Ok(kvm) => kvm,
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
    };
    let guest = start(&setup(case), kvm);
    let server = host(guest.vsock());
    guest.command(Request::Start);
    let ended = guest.finish(DEADLINE);
    ended.expect_passed();
    server.join().unwrap();
    Some(ended)
}

pub fn echo(stream: UnixStream) {
    let mut reader = stream.try_clone().unwrap();
    let mut writer = stream;
    let mut buffer = [0; 8192];
    while let Ok(count) = reader.read(&mut buffer) {
        if count == 0 || writer.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Reads nothing, for as long as anybody could wait.
pub fn ignore(stream: UnixStream) {
    thread::sleep(DEADLINE);
    drop(stream);
}

/// Connects to the guest, which sends back what it gets.
pub fn greet(vsock: &VsockHandle) -> JoinHandle<()> {
    let mut stream = vsock.connect(1024).unwrap();
    thread::spawn(move || {
        stream.write_all(b"there and back").unwrap();
        let mut back = [0; 14];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"there and back");
    })
}

/// Lets two connections wait, and takes the first of them once the guest connects to the next port.
pub fn take_one_when_asked(vsock: &VsockHandle) -> JoinHandle<()> {
    let listener = vsock.listen(PORT, 2).unwrap();
    let asked = vsock.listen(PORT + 1, 1).unwrap();
    thread::spawn(move || {
        let signal = asked.accept(DEADLINE).unwrap();
        let taken = listener.accept(DEADLINE).unwrap();
        assert!(signal.is_some() && taken.is_some());
        // Until the guest has ended.
        while asked.accept(ACCEPT).is_ok() {}
    })
}

#[test]
fn stream_to_the_host_carries_bytes_both_ways() {
    pass_with("vsock-echo bytes=262144", |vsock| serve(vsock, echo));
    pass_with("vsock-echo-interrupt", |vsock| serve(vsock, echo));
}

#[test]
fn device_has_the_configured_address() {
    pass_with("vsock-config", |vsock| serve(vsock, echo));
}

#[test]
fn port_without_a_listener_refuses() {
    pass_with("vsock-refused", |vsock| serve(vsock, echo));
}

#[test]
fn host_that_does_not_read_gives_no_more_credit() {
    pass_with("vsock-credit", |vsock| serve(vsock, ignore));
}

#[test]
fn guest_that_sends_without_credit_loses_its_connection_only() {
    pass_with("vsock-overrun", |vsock| serve(vsock, ignore));
}

#[test]
fn malformed_packets_are_survived() {
    pass_with("vsock-malformed", |vsock| serve(vsock, echo));
}

#[test]
fn flood_of_connections_is_answered_and_bounded() {
    pass_with("vsock-flood", |vsock| serve(vsock, ignore));
}

#[test]
fn connections_end_with_a_reset_and_others_begin() {
    pass_with("vsock-reset", |vsock| serve(vsock, echo));
}

#[test]
fn guest_without_receive_buffers_is_answered_later() {
    pass_with("vsock-no-receive-buffers", |vsock| serve(vsock, echo));
}

#[test]
fn host_connects_to_the_guest() {
    pass_with("vsock-accept", greet);
}

#[test]
fn connection_beyond_the_backlog_is_refused_until_one_is_taken() {
    pass_with("vsock-backlog", take_one_when_asked);
}
