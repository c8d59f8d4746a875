//! The vsock device, with the host's end in this process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use husk_tests::bare_bed::{Guest, Setup};

use super::{DEADLINE, kvm_or_skip, start};

const PORT: u32 = 5000;
const ACCEPT: Duration = Duration::from_millis(100);

fn setup(case: &str) -> Setup {
    Setup { rng: false, vsock: true, start_paused: true, ..Setup::new(case) }
}

/// Runs a guest while each connection of it is served by a thread.
fn serve(case: &str, on_stream: fn(UnixStream)) {
    let kvm = kvm_or_skip!();
    let guest = start(&setup(case), kvm);
    let listener = guest.vsock().listen(PORT, 2048).unwrap();
    guest.command(husk_vmm::control::Request::Start);
    // Ends with the guest, which the listener outlives.
    let server = thread::spawn(move || {
        loop {
            match listener.accept(ACCEPT) {
                Ok(Some(stream)) => {
                    thread::spawn(move || on_stream(stream));
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
    });
    finish(guest);
    drop(server);
}

fn finish(guest: Guest) {
    guest.finish(DEADLINE).expect_passed();
}

fn echo(stream: UnixStream) {
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
fn ignore(stream: UnixStream) {
    thread::sleep(DEADLINE);
    drop(stream);
}

#[test]
fn stream_to_the_host_carries_bytes_both_ways() {
    serve("vsock-echo bytes=262144", echo);
    serve("vsock-echo-interrupt", echo);
}

#[test]
fn device_has_the_configured_address() {
    serve("vsock-config", echo);
}

#[test]
fn port_without_a_listener_refuses() {
    serve("vsock-refused", echo);
}

#[test]
fn host_that_does_not_read_gives_no_more_credit() {
    serve("vsock-credit", ignore);
}

#[test]
fn guest_that_sends_without_credit_loses_its_connection_only() {
    serve("vsock-overrun", ignore);
}

#[test]
fn malformed_packets_are_survived() {
    serve("vsock-malformed", echo);
}

#[test]
fn flood_of_connections_is_answered_and_bounded() {
    serve("vsock-flood", ignore);
}

#[test]
fn connections_end_with_a_reset_and_others_begin() {
    serve("vsock-reset", echo);
}

#[test]
fn guest_without_receive_buffers_is_answered_later() {
    serve("vsock-no-receive-buffers", echo);
}

#[test]
fn host_connects_to_the_guest() {
    let kvm = kvm_or_skip!();
    let guest = start(&Setup { start_paused: false, ..setup("vsock-accept") }, kvm);
    guest.expect("listening", DEADLINE);
    let mut stream = guest.vsock().connect(1024).unwrap();
    stream.write_all(b"there and back").unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"there and back");
    drop(stream);
    finish(guest);
}
