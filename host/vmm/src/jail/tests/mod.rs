//! The jail from inside: children of the test go into it and try to get out. Each layer is tried by
//! itself, then all of them, as root and as an ordinary user.

mod attempts;
mod life;
mod roles;
mod sys;

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use caps::CapSet;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, geteuid, pipe, setgroups, setresgid, setresuid};

use super::{JailError, Layer, Report, enter};
use sys::{End, spawn, wait};

/// A user without privileges: the one who owns nothing.
const NOBODY: u32 = 65534;

/// Who goes into the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    User,
}

/// Those that this test can be. Says so where it cannot be all of them.
fn everybody() -> Vec<Who> {
    if geteuid().is_root() {
        vec![Who::Root, Who::User]
    } else {
        eprintln!("SKIPPED: the jail as root: not run by root");
        vec![Who::User]
    }
}

impl Who {
    /// In a child of the test.
    fn become_self(self) {
        if self == Self::User && geteuid().is_root() {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            setgroups(&[]).unwrap();
            setresgid(group, group, group).unwrap();
            setresuid(user, user, user).unwrap();
        }
    }

    fn enter(self, keep: &[BorrowedFd<'_>]) -> Result<Report, JailError> {
        self.become_self();
        enter(keep)
    }
}

/// Runs `work` in a child and returns what it returned by way of JSON.
fn ask<T: serde::Serialize + serde::de::DeserializeOwned>(
    work: impl FnOnce(BorrowedFd<'_>) -> T,
) -> T {
    let (mut reader, writer) = pipe().map(|(r, w)| (std::fs::File::from(r), w)).unwrap();
    let child = spawn(|| {
        let answer = serde_json::to_vec(&work(writer.as_fd())).unwrap();
        let mut writer = std::fs::File::from(writer.try_clone().unwrap());
        writer.write_all(&answer).unwrap();
        0
    });
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(wait(child), End::Exited(0), "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn report_says_what_holds() {
    for who in everybody() {
        let report = ask(|answer| who.enter(&[answer]).unwrap());
        for (name, layer) in report.layers() {
            eprintln!("{who:?}: {name}: {layer}");
        }
        // What every host gives to root, and no host can refuse.
        if who == Who::Root {
            assert!(report.user.holds(), "{report:?}");
            assert!(report.capabilities.holds(), "{report:?}");
        }
        assert!(!matches!(report.capabilities, Layer::Missing { .. }), "{report:?}");
    }
}

#[test]
fn process_with_two_threads_is_refused() {
    let refused = ask(|_| {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receiver.recv());
        let refused = matches!(enter(&[]), Err(JailError::Threads));
        drop(sender);
        thread.join().unwrap().unwrap_err();
        refused
    });
    assert!(refused);
}

/// A user on a host that lets nobody make namespaces: the user's own limit is zero, and privileges
/// are given up. user_namespaces(7), `/proc/sys/user`.
fn forbid_namespaces() {
    Who::User.become_self();
    unshare(CloneFlags::CLONE_NEWUSER).unwrap();
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).unwrap();
    }
}

#[test]
fn host_that_forbids_namespaces_is_reported_and_the_other_layers_hold() {
    let report: Report = ask(|answer| {
        forbid_namespaces();
        enter(&[answer]).unwrap()
    });
    let Layer::Missing { reason } = &report.namespaces else { panic!("{report:?}") };
    assert!(reason.starts_with("unshare: "), "{reason}");
    assert!(matches!(report.root, Layer::Missing { .. }), "{report:?}");
    let bounding =
        matches!(&report.capabilities, Layer::Partly { reason } if reason.contains("bounding"));
    assert!(bounding, "{report:?}");
    let elsewhere: Report = ask(|answer| Who::User.enter(&[answer]).unwrap());
    assert_eq!(
        (report.user, report.files, report.network, report.scopes),
        (elsewhere.user, elsewhere.files, elsewhere.network, elsewhere.scopes)
    );
}
