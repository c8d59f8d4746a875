//! The process of the built-in VMM with guests of a few instructions, on real KVM. Skipped, loudly,
//! where `/dev/kvm` does not open.

// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used)]

mod bare;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bare::{HANG, Parts, RESET, SOON, TRIPLE_FAULT, say};
use husk_vmm::control::{ClientError, Event, Request};
use husk_vmm::process::{EXIT_DESERTED, EXIT_GUEST, EXIT_REFUSED};
use husk_vmm::rate_limit::Limits;
use husk_vmm::virtio::blk;

macro_rules! kvm_or_skip {
    () => {
        match bare::kvm() {
            Ok(kvm) => kvm,
            Err(reason) => {
                eprintln!("SKIPPED: {reason}");
                return;
            }
        }
    };
}

fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn guest_speaks_and_ends_the_machine() {
    let process = Parts::new(kvm_or_skip!(), &code(&[&say("hello"), &RESET])).start();
    let Some(Event::Built { jail }) = process.next_event() else { panic!() };
    // No host refuses this one; it depends on the host how the others stand.
    assert_eq!(jail["capabilities"], "yes", "{jail:?}");
    for (layer, stands) in &jail {
        let known = ["yes", "partly: ", "no: "].iter().any(|word| stands.starts_with(word));
        assert!(known, "{layer}: {stands}");
    }
    assert_eq!(jail.len(), 7, "{jail:?}");
    let Some(Event::Ended { status: 0, .. }) = process.next_event() else { panic!() };
    assert_eq!(process.next_event(), None);
    let ended = process.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!((ended.console.as_str(), ended.stderr.as_str()), ("hello", ""));
}

#[test]
fn guest_that_crashes_is_told_in_one_line() {
    let process = Parts::new(kvm_or_skip!(), &TRIPLE_FAULT).start();
    let ended = process.wait();
    assert_eq!(ended.status.code(), Some(EXIT_GUEST.into()), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("triple fault"), "{ended:?}");
}

#[test]
fn machine_is_started_paused_resumed_measured_and_stopped() {
    let mut parts = Parts::new(kvm_or_skip!(), &code(&[&say("x"), &HANG]));
    parts.config.start_paused = true;
    let process = parts.start();
    assert!(matches!(process.next_event(), Some(Event::Built { .. })));
    let ask = |request| process.control().command(request, SOON);
    assert!(matches!(ask(Request::Resume), Err(ClientError::Refused { .. })));
    assert_eq!(process.control().statistics(SOON).unwrap().exits["port_write"], 0);
    ask(Request::Start).unwrap();
    assert!(matches!(ask(Request::Start), Err(ClientError::Refused { .. })));
    let mut byte = [0];
    (&process.console).read_exact(&mut byte).unwrap();
    ask(Request::Pause).unwrap();
    ask(Request::Pause).unwrap();
    ask(Request::Resume).unwrap();
    let statistics = process.control().statistics(SOON).unwrap();
    assert_eq!(statistics.exits["port_write"], 1, "{statistics:?}");
    let kinds: Vec<&str> = statistics.devices.iter().map(|device| device.kind.as_str()).collect();
    assert_eq!(kinds, ["vsock", "entropy"]);
    let memory = statistics.memory.unwrap();
    eprintln!("memory beside the guest's: {} KiB", memory.own_kib);
    assert!(memory.own_kib > 0 && memory.guest_kib > 0, "{memory:?}");
    assert!(matches!(
        process.control().command(Request::BalloonTarget { mib: 1 }, SOON),
        Err(ClientError::Refused { .. })
    ));
    process.control().command(Request::Stop, SOON).unwrap();
    assert_eq!(process.wait().status.code(), Some(0));
}

#[test]
fn streams_of_the_host_reach_the_device_and_end_with_it() {
    let process = Parts::new(kvm_or_skip!(), &HANG).start();
    let vsock = process.vsock.clone();
    let listener = vsock.listen(7, 1).unwrap();
    assert_eq!(vsock.listen(7, 1).unwrap_err().kind(), ErrorKind::AddrInUse);
    let mut stream = vsock.connect(1).unwrap();
    stream.write_all(b"for a guest that never comes").unwrap();
    // The order of the connection was before.
    let _second = vsock.listen(8, 1).unwrap();
    let statistics = process.control().statistics(SOON).unwrap();
    assert_eq!(statistics.devices[0].counters["connections"], 1);
    process.control().command(Request::Stop, SOON).unwrap();
    assert_eq!(process.wait().status.code(), Some(0));
    let gone = listener.accept(SOON).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::ConnectionAborted);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn monitor_that_goes_ends_the_machine() {
    let mut process = Parts::new(kvm_or_skip!(), &HANG).start();
    assert!(matches!(process.next_event(), Some(Event::Built { .. })));
    process.control = None;
    let ended = process.wait();
    assert_eq!(ended.status.code(), Some(EXIT_DESERTED.into()), "{ended:?}");
}

#[test]
fn configuration_that_ends_early_or_is_none_is_refused_in_one_line() {
    for text in ["", "{", "{\"kvm\":3", "nonsense", "[]", "{}"] {
        let mut process = Parts::new(kvm_or_skip!(), &HANG).spawn();
        process.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let ended = process.wait();
        assert_eq!(ended.status.code(), Some(EXIT_REFUSED.into()), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{text}: {ended:?}");
    }
}

#[test]
fn endless_configuration_is_refused() {
    let mut process = Parts::new(kvm_or_skip!(), &HANG).spawn();
    let mut stdin = process.stdin.take().unwrap();
    // Until the pipe breaks.
    let mut written = 0;
    while stdin.write_all(&[b' '; 4096]).is_ok() {
        written += 4096;
        assert!(written < 4 << 20);
    }
    let ended = process.wait();
    assert_eq!(ended.status.code(), Some(EXIT_REFUSED.into()), "{ended:?}");
}

#[test]
fn machines_that_cannot_be_are_refused_in_one_line() {
    type Change = fn(&mut Parts);
    let changes: [(Change, &str); 8] = [
        (|parts| parts.config.vcpus.online = 0, "0 of 1 virtual CPUs"),
        (|parts| parts.config.vcpus.max = 1000, "of 1000 virtual CPUs"),
        (|parts| parts.config.memory.mib = 31, "31 MiB"),
        (|parts| parts.config.memory.mib = u32::MAX, "4294967295 MiB"),
        (|parts| parts.config.kernel = parts.config.kvm, "appears twice"),
        (|parts| parts.config.kernel = 999, "descriptor 999 of the kernel is not open"),
        (
            |parts| std::mem::swap(&mut parts.config.kernel, &mut parts.config.kvm),
            "no character device",
        ),
        (|parts| parts.kernel.set_len(100).unwrap(), "the kernel"),
    ];
    for (change, words) in changes {
        let mut parts = Parts::new(kvm_or_skip!(), &HANG);
        change(&mut parts);
        let ended = parts.start().wait();
        assert_eq!(ended.status.code(), Some(EXIT_REFUSED.into()), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
}

/// A disk of the machine.
fn disk(parts: &mut Parts, serial: &str, file: File) {
    let file = parts.inherit(file);
    parts.config.devices.disks.push(blk::Config {
        file,
        serial: serial.to_owned(),
        read_only: true,
        disposable: false,
        engine: blk::EngineKind::default(),
        limits: Limits::default(),
    });
}

fn file_of(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused_in_one_line() {
    type Change = fn(&mut Parts);
    let changes: [(Change, &str); 10] = [
        (|parts| parts.config.kvm = parts.inherit(File::open("/dev/null").unwrap()), "KVM"),
        (|parts| parts.config.kernel = parts.inherit(File::open("/").unwrap()), "no regular file"),
        (|parts| parts.config.initramfs = Some(parts.inherit(file_of(1 << 40))), "the initramfs"),
        (
            |parts| parts.config.initramfs = Some(parts.inherit(file_of(0))),
            "the initramfs is empty",
        ),
        (|parts| disk(parts, "root", File::open("/").unwrap()), "no regular file"),
        (|parts| disk(parts, "root", File::open("/dev/zero").unwrap()), "no regular file"),
        (
            |parts| disk(parts, "root", File::from(OwnedFd::from(io::pipe().unwrap().0))),
            "no regular file",
        ),
        (|parts| disk(parts, "root", file_of(0)), "empty"),
        (
            |parts| {
                disk(parts, "root", file_of(512));
                disk(parts, "root", file_of(512));
            },
            "disk serial root appears twice",
        ),
        (
            |parts| {
                disk(parts, "root", file_of(512));
                parts.config.devices.disks[0].file = parts.config.kernel;
            },
            "appears twice",
        ),
    ];
    for (change, words) in changes {
        let mut parts = Parts::new(kvm_or_skip!(), &HANG);
        change(&mut parts);
        let ended = parts.start().wait();
        assert_eq!(ended.status.code(), Some(EXIT_REFUSED.into()), "{words}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
}

#[test]
fn vmm_that_dies_under_a_flood_of_requests_is_gone_for_who_asks() {
    let mut process = Parts::new(kvm_or_skip!(), &HANG).start();
    assert!(matches!(process.next_event(), Some(Event::Built { .. })));
    let control = process.control.take().unwrap();
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            loop {
                match control.statistics(SOON) {
                    Ok(_) => {}
                    Err(error) => return error,
                }
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        process.child.kill().unwrap();
        assert!(matches!(asker.join().unwrap(), ClientError::Gone));
    });
}

#[test]
fn vmm_dies_with_its_parent() {
    let kvm = kvm_or_skip!();
    // The thread that starts it is its parent.
    let (pid, control) = std::thread::spawn(move || {
        let mut process = Parts::new(kvm, &HANG).start();
        assert!(matches!(process.next_event(), Some(Event::Built { .. })));
        let pid = process.child.id();
        let control = process.control.take();
        // Neither waited for nor killed by us.
        std::mem::forget(process);
        (pid, control)
    })
    .join()
    .unwrap();
    let status = format!("/proc/{pid}/stat");
    let deadline = Instant::now() + SOON;
    loop {
        let stat = std::fs::read_to_string(&status).unwrap();
        // A zombie of ours: it was killed though its control socket is open.
        if stat.contains(") Z ") {
            break;
        }
        assert!(Instant::now() < deadline, "{stat}");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(control);
}
