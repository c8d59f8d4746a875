//! What holds around the jail: descriptors, traces, the end of the parent, the end by panic.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, pipe};

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

#[test]
fn jailed_process_is_nobody_and_leaves_no_trace_of_its_memory() {
    for who in everybody() {
        let (user, group, groups, dumpable, no_new_privs, core): (u32, u32, _, _, _, _) =
            ask(|answer| {
                who.enter(&[answer]).unwrap();
                let groups = getgroups().unwrap().len();
                let core = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE);
                let dumpable = nix::sys::prctl::get_dumpable().unwrap();
                let no_new_privs = nix::sys::prctl::get_no_new_privs().unwrap();
                let ids: (Uid, Gid) = (geteuid(), getegid());
                let ids = (ids.0.as_raw(), ids.1.as_raw());
                (ids.0, ids.1, groups, dumpable, no_new_privs, core.unwrap())
            });
        assert!(user != 0 && group != 0, "{who:?}: {user} {group}");
        assert_eq!(core, (0, 0));
        assert!(!dumpable && no_new_privs);
        if who == Who::Root {
            assert!(user > 0x7000_0000 && user == group, "{user} {group}");
            assert_eq!(groups, 0);
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
        let (_never, block) = pipe().unwrap();
        let parent = spawn(|| {
            let vmm = spawn(|| {
                let held = [writer.as_fd(), tell_ready.as_fd(), _never.as_fd(), block.as_fd()];
                who.enter(&held).unwrap();
                filter::install(Role::Main).unwrap();
                nix::unistd::write(&tell_ready, b"x").unwrap();
                // For ever: the other side is open in this process.
                let _ = nix::unistd::read(&_never, &mut [0]);
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
