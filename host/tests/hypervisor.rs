//! QEMU and the vsock device with a real kernel in between. Skipped, loudly, where QEMU, the
//! kernel or the target of the guest's init is missing.

// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use husk::hypervisor::{self, BootPhase, Choice, Diagnosis, Disk, Vm};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use support::{BOOT_DEADLINE, Guest, boot};

const MIB: usize = 1 << 20;

macro_rules! guest_or_skip {
    ($disks:expr) => {
        match boot($disks) {
            Ok(guest) => guest,
            Err(reason) => {
                eprintln!("SKIPPED: {reason}");
                return;
            }
        }
    };
    () => {
        guest_or_skip!(|_| vec![])
    };
}

/// Bytes that a shifted, doubled or dropped part would change.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn round_trip(stream: &UnixStream, sent: &[u8]) -> Vec<u8> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::with_capacity(sent.len());
        let mut reader = stream;
        reader.read_to_end(&mut received).unwrap();
        received
    })
}

#[test]
fn bytes_return_as_they_were_sent_and_ends_of_input_pass_both_ways() {
    let guest = guest_or_skip!();
    let sent = pattern(64 * MIB);
    let start = Instant::now();
    let received = round_trip(&guest.job(b'E'), &sent);
    let seconds = start.elapsed().as_secs_f64();
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    eprintln!("echo: 64 MiB in {seconds:.2} s, {:.0} MiB/s each way", 64.0 / seconds);
    one_way(&guest, &sent);
}

fn one_way(guest: &Guest, sent: &[u8]) {
    let mut stream = guest.job(b'N');
    let start = Instant::now();
    stream.write_all(sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut counted = String::new();
    stream.read_to_string(&mut counted).unwrap();
    assert_eq!(counted, sent.len().to_string());
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("into the guest: 64 MiB in {seconds:.2} s, {:.0} MiB/s", 64.0 / seconds);
}

#[test]
fn hundred_connections_at_once_do_not_mix() {
    let guest = guest_or_skip!();
    let streams: Vec<UnixStream> = (0..100).map(|_| guest.job(b'E')).collect();
    let patterns: Vec<Vec<u8>> =
        (0..streams.len()).map(|index| pattern(50_000 + index * 977)[index..].to_vec()).collect();
    std::thread::scope(|scope| {
        for (stream, sent) in streams.iter().zip(&patterns) {
            scope.spawn(move || assert!(&round_trip(stream, sent) == sent));
        }
    });
}

#[test]
fn connection_that_nobody_reads_delays_no_other() {
    let guest = guest_or_skip!();
    let stuck = guest.job(b'E');
    stuck.set_nonblocking(true).unwrap();
    // Fills every buffer on the way there and back.
    let chunk = pattern(64 << 10);
    let mut quiet = 0;
    while quiet < 50 {
        match (&stuck).write(&chunk) {
            Ok(_) => quiet = 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
    let sent = pattern(MIB);
    assert!(round_trip(&guest.job(b'E'), &sent) == sent);
}

#[test]
fn ports_where_nobody_listens_refuse() {
    const ECONNRESET: &str = "104";
    let guest = guest_or_skip!();
    assert_eq!(guest.ask(b'R'), ECONNRESET);
    let mut stream = guest.vm.vsock().connect(4242).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn guest_that_writes_to_a_closed_stream_gets_an_error() {
    const EPIPE: &str = "32";
    let mut guest = guest_or_skip!();
    let reports = guest.vm.vsock().listen(3000, 1).unwrap();
    let mut stream = guest.job(b'W');
    stream.write_all(&3000u32.to_le_bytes()).unwrap();
    stream.read_exact(&mut [0; 100_000]).unwrap();
    drop(stream);
    let mut report = String::new();
    support::accept(&reports, &mut *guest.vm).read_to_string(&mut report).unwrap();
    assert_eq!(report, EPIPE);
}

#[test]
fn disks_are_found_by_serial_and_read_only_ones_are_read_only() {
    let guest = guest_or_skip!(|folder| {
        let disk = |name: &str, serial: &str, len, read_only| {
            let path = folder.join(name);
            std::fs::File::create(&path).unwrap().set_len(len).unwrap();
            Disk { serial: serial.into(), path, read_only, disposable: false }
        };
        vec![
            disk("image, with a comma", "image", 4096, true),
            disk("upper", "upper-1", 8192, false),
        ]
    });
    assert_eq!(guest.ask(b'D'), "image:1:8 upper-1:0:16");
}

#[test]
fn guest_has_a_clock_that_agrees_with_ours() {
    let guest = guest_or_skip!();
    let start = Instant::now();
    let micros: u128 = guest.ask(b'C').parse().unwrap();
    let ours = start.elapsed().as_micros();
    // Ten sleeps of 10 ms happened within the time that passed here, and took their time.
    assert!((100_000..=ours).contains(&micros), "{micros} µs there, {ours} µs here");
}

#[test]
fn killed_vmm_ends_every_stream_and_listener() {
    let mut guest = guest_or_skip!();
    let listener = guest.vm.vsock().listen(3000, 1).unwrap();
    let mut stream = guest.job(b'E');
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    assert!(guest.vm.try_wait().unwrap().is_none());
    guest.vm.kill().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let error = listener.accept(BOOT_DEADLINE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    assert_eq!(guest.vm.vsock().connect(1).unwrap_err().kind(), ErrorKind::NotConnected);
    let diagnosis = guest.vm.diagnose().to_string();
    assert!(diagnosis.contains("signal: 9"), "{diagnosis}");
}

/// Waits by the descriptor, as an event loop would.
fn wait_for_exit(vm: &mut dyn Vm) -> Diagnosis {
    let timeout = PollTimeout::try_from(BOOT_DEADLINE).unwrap();
    let ended = poll(&mut [PollFd::new(vm.exit_fd(), PollFlags::POLLIN)], timeout).unwrap();
    let diagnosis = vm.diagnose();
    assert_eq!(ended, 1, "{diagnosis}");
    assert!(diagnosis.exit.is_some(), "{diagnosis}");
    diagnosis
}

#[test]
fn guest_that_powers_off_ends_the_vmm() {
    let mut guest = guest_or_skip!();
    let mut stream = guest.job(b'P');
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(wait_for_exit(&mut *guest.vm).exit.unwrap().success());
}

#[test]
fn guest_that_panics_is_told_with_its_last_words() {
    let mut guest = guest_or_skip!();
    let mut stream = guest.job(b'!');
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let diagnosis = guest.vm.diagnose();
    assert!(diagnosis.exit.is_some(), "{diagnosis}");
    assert_eq!(diagnosis.phase, BootPhase::UserSpace);
    let console = diagnosis.console.join("\n");
    assert!(console.contains("Kernel panic"), "{console}");
    assert!(diagnosis.to_string().contains("Kernel panic"), "{diagnosis}");
    let log = std::fs::read_to_string(guest.folder.path().join("console.log")).unwrap();
    assert!(log.contains("Kernel panic"), "{log}");
}

#[test]
fn kernel_that_is_none_is_told_by_the_vmm() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = match support::config(folder.path(), vec![]) {
        Ok(config) => config,
        Err(reason) => return eprintln!("SKIPPED: {reason}"),
    };
    config.kernel = folder.path().join("kernel");
    std::fs::write(&config.kernel, "no kernel").unwrap();
    let hypervisor = match hypervisor::choose(Choice::Qemu) {
        Ok((hypervisor, _)) => hypervisor,
        Err(error) => return eprintln!("SKIPPED: {error}"),
    };
    let mut vm = hypervisor.start(&config).unwrap();
    let listener = vm.vsock().listen(1024, 1);
    if let Ok(listener) = listener {
        assert_eq!(
            listener.accept(BOOT_DEADLINE).unwrap_err().kind(),
            ErrorKind::ConnectionAborted
        );
    }
    let diagnosis = vm.diagnose();
    assert!(diagnosis.exit.is_some(), "{diagnosis}");
    assert!(diagnosis.phase <= BootPhase::Machine, "{diagnosis}");
    assert!(diagnosis.stderr.join(" ").contains("kernel"), "{diagnosis}");
}
