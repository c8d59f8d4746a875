//! The file system device: files of the host by Debian's virtiofsd, and file servers that fail.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use husk_tests::bare_bed::{Fault, Guest, Setup, Share, Size, Virtiofsd, YesServer, pattern};
use husk_vmm::control::Request;
use husk_vmm::process::EXIT_REFUSED;
use nix::sys::signal::Signal;
use vhost::vhost_user::message::FrontendReq;

use super::{DEADLINE, folder, kvm_or_skip, pass, start};

/// As the guests take it for granted.
const HOST_LEN: usize = 200_000;
const HOST_SEED: u64 = 11;
const GUEST_LEN: usize = 120_000;
const GUEST_SEED: u64 = 12;

fn with_share(case: &str, socket: UnixStream) -> Setup {
    Setup { shares: vec![Share { tag: "share", socket }], ..Setup::new(case) }
}

/// A machine with a folder of one file. `None`, loudly, where there is no server.
fn served(case: &str, folder: &Path, read_only: bool) -> Option<(Setup, Virtiofsd)> {
    fs::write(folder.join("from-host"), pattern(HOST_LEN, HOST_SEED)).unwrap();
    match Virtiofsd::start(folder, read_only) {
        Ok((server, socket)) => Some((with_share(case, socket), server)),
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            None
        }
    }
}

fn is_as_written_by_the_guest(folder: &Path) -> bool {
    fs::read(folder.join("from-guest")).unwrap() == pattern(GUEST_LEN, GUEST_SEED)
}

#[test]
fn guest_reads_and_writes_files_of_the_host() {
    let folder = folder();
    let Some((setup, mut server)) = served("fs-files", folder.path(), false) else { return };
    if pass(&setup).is_none() {
        return;
    }
    assert!(is_as_written_by_the_guest(folder.path()));
    drop(setup);
    assert!(server.end(DEADLINE).is_some(), "the file server outlives its machine");
}

#[test]
fn share_that_is_only_read_is_not_written() {
    let folder = folder();
    let Some((setup, _server)) = served("fs-read-only", folder.path(), true) else { return };
    pass(&setup);
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "the host's file and no other");
}

#[test]
fn names_do_not_lead_out_of_the_share() {
    let folder = folder();
    let shared = folder.path().join("shared");
    fs::create_dir_all(shared.join("folder")).unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    let Some((setup, _server)) = served("fs-names", &shared, false) else { return };
    pass(&setup);
    assert_eq!(fs::read(folder.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn requests_wait_for_the_driver_to_be_ready() {
    let folder = folder();
    let Some((setup, _server)) = served("fs-before-ready", folder.path(), false) else { return };
    pass(&setup);
}

#[test]
fn reset_in_the_middle_of_reads_ends_them() {
    let folder = folder();
    let Some((setup, _server)) = served("fs-reset-in-flight", folder.path(), false) else { return };
    pass(&setup);
}

#[test]
fn server_has_the_memory_that_the_guest_has_and_no_other() {
    let folder = folder();
    let Some((setup, _server)) = served("fs-memory", folder.path(), false) else { return };
    let size = Size { hotplug_mib: 256, ..Size::default() };
    let kvm = kvm_or_skip!();
    let guest = start(&setup.sized(size), kvm);
    let hotplug_kib = || guest.host_kib(size.memory_mib);
    guest.expect("works", DEADLINE);
    assert_eq!(hotplug_kib(), 0);
    guest.command(Request::MemTarget { mib: 128 });
    guest.expect("plugged", DEADLINE);
    assert!(is_as_written_by_the_guest(folder.path()));
    assert!(hotplug_kib() > 0, "what was read is somewhere else");
    guest.command(Request::MemTarget { mib: 0 });
    guest.expect("gone memory", DEADLINE);
    assert_eq!(hotplug_kib(), 0, "the server has taken memory that is gone");
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn server_that_has_to_share_more_memory_and_fails_leaves_the_machine_what_it_was_granted() {
    for fault in [Fault::Closes, Fault::Hangs, Fault::Refuses, Fault::Nonsense] {
        let kvm = kvm_or_skip!();
        let (server, socket) = YesServer::start();
        let size = Size { hotplug_mib: 128, ..Size::default() };
        let guest = start(&with_share("fs-lost", socket).sized(size), kvm);
        guest.expect("serving", DEADLINE);
        server.fail_at(FrontendReq::SET_MEM_TABLE, fault);
        guest.command(Request::MemTarget { mib: 128 });
        assert_eq!(guest.counter("mem", "usable_bytes"), 128 << 20, "{fault:?}");
        guest.expect("lost", DEADLINE);
        guest.finish(DEADLINE).expect_passed();
        let tables = server.asked().into_iter().filter(|at| *at == FrontendReq::SET_MEM_TABLE);
        assert_eq!(tables.count(), 2, "{fault:?}");
    }
}

/// The guest says that it lost its server, and the machine goes on to its end.
fn expect_lost(guest: Guest) {
    guest.expect("lost", DEADLINE);
    assert_eq!(guest.counter("fs", "back_end_failures"), 1);
    guest.command(Request::Stop);
    let ended = guest.finish(DEADLINE);
    assert!(ended.status.is_some_and(|status| status.success()), "{ended}");
    assert!(ended.serial.ends_with("PASSED\n"), "{ended}");
}

#[test]
fn guest_is_told_of_a_server_that_dies_or_babbles() {
    let moves: [fn(&YesServer); 2] = [YesServer::close, YesServer::babble];
    for lose in moves {
        let kvm = kvm_or_skip!();
        let (server, socket) = YesServer::start();
        let guest = start(&with_share("fs-lost linger=1", socket), kvm);
        guest.expect("serving", DEADLINE);
        lose(&server);
        guest.expect("PASSED", DEADLINE);
        expect_lost(guest);
    }
}

#[test]
fn guest_is_told_when_virtiofsd_is_killed() {
    let folder = folder();
    let case = "fs-lost linger=1";
    let Some((setup, server)) = served(case, folder.path(), false) else { return };
    let kvm = kvm_or_skip!();
    let guest = start(&setup, kvm);
    guest.expect("serving", DEADLINE);
    server.signal(Signal::SIGKILL);
    guest.expect("PASSED", DEADLINE);
    expect_lost(guest);
}

#[test]
fn server_that_fails_at_the_start_of_the_driver_leaves_the_machine_without_the_share() {
    use FrontendReq::{SET_FEATURES, SET_MEM_TABLE, SET_VRING_ENABLE, SET_VRING_KICK};
    for failure in [
        (SET_FEATURES, Fault::Refuses),
        (SET_MEM_TABLE, Fault::Closes),
        (SET_VRING_KICK, Fault::Nonsense),
        (SET_VRING_ENABLE, Fault::Hangs),
    ] {
        let (server, socket) = YesServer::start();
        server.fail_at(failure.0, failure.1);
        pass(&with_share("fs-unusable", socket));
    }
}

#[test]
fn server_that_keeps_its_queues_does_not_keep_the_guest_from_a_reset() {
    for fault in [Fault::Closes, Fault::Hangs, Fault::Nonsense] {
        let (server, socket) = YesServer::start();
        server.fail_at(FrontendReq::GET_VRING_BASE, fault);
        pass(&with_share("fs-stuck", socket));
    }
}

#[test]
fn virtiofsd_that_is_stopped_is_given_up() {
    let folder = folder();
    let Some((setup, server)) = served("fs-unusable", folder.path(), false) else { return };
    let kvm = kvm_or_skip!();
    let guest = start(&Setup { start_paused: true, ..setup }, kvm);
    // The machine is built: the server was asked all that it is asked before there is a driver.
    assert_eq!(guest.counter("fs", "back_end_failures"), 0);
    server.signal(Signal::SIGSTOP);
    guest.command(Request::Start);
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn machine_that_ends_does_not_wait_for_its_file_server() {
    let kvm = kvm_or_skip!();
    let (server, socket) = YesServer::start();
    let setup = with_share("fs-lost", socket);
    let guest = start(&setup, kvm);
    guest.expect("serving", DEADLINE);
    guest.command(Request::Stop);
    let ended = guest.finish(DEADLINE);
    assert!(ended.status.is_some_and(|status| status.success()), "{ended}");
    drop(setup);
    let asked = server.finish();
    assert!(asked.contains(&FrontendReq::SET_VRING_ENABLE), "{asked:?}");
    assert!(!asked.contains(&FrontendReq::GET_VRING_BASE), "{asked:?}");
}

#[test]
fn server_that_fails_before_there_is_a_guest_is_refused_in_one_line() {
    for (fault, what) in [
        (Fault::Closes, "the back end is gone"),
        (Fault::Hangs, "no reply within"),
        (Fault::Nonsense, "makes no sense"),
    ] {
        let kvm = kvm_or_skip!();
        let (server, socket) = YesServer::start();
        server.fail_at(FrontendReq::GET_FEATURES, fault);
        let ended = start(&with_share("hello", socket), kvm).finish(DEADLINE);
        let status = ended.status.expect("the VMM ends by itself");
        assert_eq!(status.code(), Some(EXIT_REFUSED.into()), "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        assert!(ended.stderr.contains("share") && ended.stderr.contains(what), "{ended}");
    }
}
