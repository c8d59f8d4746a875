//! What holds around the jail: descriptors, traces, the end of the parent, the end by panic or
//! fault.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{getegid, geteuid, getgroups, pipe};
use serde::{Deserialize, Serialize};

use super::super::filter::{self, Role};
use super::sys::{End, PANICKED, is_open, spawn, wait};
use super::{Who, ask, everybody};

#[test]
fn descriptors_that_are_not_kept_are_closed() {
    let kept = File::open("/dev/null").unwrap();
    let leaked = File::open("/dev/null").unwrap();
    for who in everybody() {
        let (kept, leaked) = (kept.as_fd(), leaked.as_fd());
        let numbers: Vec<RawFd> = ask(|answer| {
            who.enter(&[answer, kept]).unwrap();
            (0..1024).filter(|fd| is_open(*fd)).collect()
        });
        assert!(numbers.contains(&kept.as_raw_fd()), "{numbers:?}");
        assert!(!numbers.contains(&leaked.as_raw_fd()), "{numbers:?}");
        // Standard streams, the pipe of this test, and the file.
        assert_eq!(numbers.len(), 5, "{numbers:?}");
    }
}

/// What a jailed process is.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    user: u32,
    group: u32,
    groups: usize,
    core_limits: (u64, u64),
    dumpable: bool,
    no_new_privs: bool,
}

impl Identity {
    fn look() -> Self {
        Self {
            user: geteuid().as_raw(),
            group: getegid().as_raw(),
            groups: getgroups().unwrap().len(),
            core_limits: getrlimit(Resource::RLIMIT_CORE).unwrap(),
            dumpable: prctl::get_dumpable().unwrap(),
            no_new_privs: prctl::get_no_new_privs().unwrap(),
        }
    }
}

#[test]
fn jailed_process_is_nobody_and_leaves_no_trace_of_its_memory() {
    for who in everybody() {
        let jailed = ask(|answer| {
            who.enter(&[answer]).unwrap();
            Identity::look()
        });
        assert!(jailed.user != 0 && jailed.group != 0, "{jailed:?}");
        assert_eq!(jailed.core_limits, (0, 0));
        assert!(!jailed.dumpable && jailed.no_new_privs, "{jailed:?}");
        if who == Who::Root {
            assert!(jailed.user > 0x7000_0000 && jailed.user == jailed.group, "{jailed:?}");
            assert_eq!(jailed.groups, 0);
        }
    }
}

/// Ends with the last process that holds the other side.
fn ends(reader: &OwnedFd, timeout: PollTimeout) -> bool {
    let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, timeout).unwrap() == 1
        && polled[0].revents().unwrap().contains(PollFlags::POLLHUP)
}

#[test]
fn jailed_process_dies_with_its_parent() {
    for who in everybody() {
        let (reader, writer) = pipe().unwrap();
        let (ready, tell_ready) = pipe().unwrap();
        let (never, silent) = pipe().unwrap();
        let parent = spawn(|| {
            let vmm = spawn(|| {
                let held = [writer.as_fd(), tell_ready.as_fd(), never.as_fd(), silent.as_fd()];
                who.enter(&held).unwrap();
                filter::install(Role::Main).unwrap();
                nix::unistd::write(&tell_ready, b"x").unwrap();
                // For ever: the other side is open in this process.
                let _ = nix::unistd::read(&never, &mut [0]);
                1
            });
            wait_for_ever(vmm)
        });
        drop((writer, tell_ready));
        File::from(ready).read_exact(&mut [0]).unwrap();
        assert!(!ends(&reader, PollTimeout::from(50_u8)), "{who:?}: it ended by itself");
        kill(parent, Signal::SIGKILL).unwrap();
        assert!(ends(&reader, PollTimeout::from(10_000_u16)), "{who:?}: it outlived its parent");
        assert_eq!(wait(parent), End::Killed(Signal::SIGKILL));
    }
}

fn wait_for_ever(child: nix::unistd::Pid) -> i32 {
    let _ = nix::sys::wait::waitpid(child, None);
    1
}

#[test]
fn panic_under_the_filter_is_told_and_aborts() {
    for role in [Role::Main, Role::Vcpu, Role::Block] {
        let (reader, writer) = pipe().unwrap();
        let child = spawn(|| {
            // A backtrace would read the program's file. The runner of tests keeps what is said.
            std::panic::set_hook(Box::new(|_| ()));
            nix::unistd::dup2_stderr(&writer).unwrap();
            super::enter(&[]).unwrap();
            filter::install(role).unwrap();
            let thrown = std::panic::catch_unwind(|| panic!("a mistake"));
            if thrown.is_ok() {
                return PANICKED;
            }
            std::io::stderr().write_all(b"panicked").unwrap();
            std::process::abort()
        });
        drop(writer);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert!(text.contains("panicked"), "{text}");
        assert_eq!(wait(child), End::Killed(Signal::SIGABRT), "{role:?}");
    }
}

#[test]
fn fault_under_the_filter_ends_as_what_it_is() {
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        let child = spawn(|| {
            super::enter(&[]).unwrap();
            filter::install(Role::Main).unwrap();
            nix::sys::signal::raise(signal).unwrap();
            0
        });
        assert_eq!(wait(child), End::Killed(signal));
    }
}
