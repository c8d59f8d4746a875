//! Archives that a hostile guest would send, extracted beside something worth to be protected.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tar::{EntryType as Kind, Header};

use super::*;

/// An entry whose names are taken as they are, which archivers would refuse to write.
fn entry(kind: Kind, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_uid(4711);
    header.set_gid(4711);
    header.set_mtime(1_000_000);
    header.set_size(content.len() as u64);
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str) -> Vec<u8> {
    entry(Kind::Regular, name, "", b"evil")
}

fn folder(name: &str) -> Vec<u8> {
    entry(Kind::Directory, name, "", b"")
}

fn placing(first: &str, put_at: Option<&str>, single: bool) -> Placing {
    Placing {
        first: first.as_bytes().to_owned(),
        put_at: put_at.map(OsString::from),
        single,
        archive: false,
    }
}

/// A folder to extract into, beside a file that nobody may touch.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.inside()).unwrap();
        fs::create_dir(place.0.path().join("outside")).unwrap();
        fs::write(place.0.path().join("outside/precious"), "mine").unwrap();
        place
    }

    fn inside(&self) -> std::path::PathBuf {
        self.0.path().join("inside")
    }

    fn extract(&self, entries: &[Vec<u8>], placing: Placing) -> Result<(), Failure> {
        let mut bytes = entries.concat();
        bytes.resize(bytes.len() + 1024, 0);
        let outcome = unpack(&mut bytes.as_slice(), &self.inside(), placing);
        let outside: Vec<_> = fs::read_dir(self.0.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "something was put outside");
        let precious = fs::read(self.0.path().join("outside/precious")).unwrap();
        assert_eq!(precious, b"mine");
        outcome
    }

    fn refuses(&self, entries: &[Vec<u8>], placing: Placing, why: &str) {
        let failure = self.extract(entries, placing).unwrap_err();
        assert!(failure.message().contains(why), "{}", failure.message());
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["d/../../outside/x", "/d/x", "d/a/../../../outside/x"] {
        let place = Place::new();
        place.refuses(&[folder("d"), file(name)], placing("d", Some("d"), false), "leads out");
    }
}

#[test]
fn names_that_were_not_asked_for_are_refused() {
    let place = Place::new();
    let mine = || placing("notes", Some("notes"), true);
    place.refuses(&[file(".bashrc")], mine(), "was not asked for");
    place.refuses(&[file("notes"), file("notes")], mine(), "was not asked for");
    place.refuses(&[folder("notes")], mine(), "was not asked for");
    place.refuses(&[folder("./"), file("other")], placing(".", Some("d"), false), "not asked");
    assert!(!place.inside().join(".bashrc").exists());
}

#[test]
fn symbolic_links_are_made_and_never_followed() {
    let place = Place::new();
    let link = |target: &str| entry(Kind::Symlink, "d/l", target, b"");
    for target in ["../../outside", "/", "."] {
        let entries = [folder("d"), link(target), file("d/l/x")];
        place.refuses(&entries, placing("d", Some("d"), false), "has a part that is no folder");
    }
    // Neither is one that was there: a file takes its place, and its target stays.
    symlink("../outside/precious", place.inside().join("mine")).unwrap();
    place.extract(&[file("f")], placing("f", Some("mine"), true)).unwrap();
    assert_eq!(fs::read(place.inside().join("mine")).unwrap(), b"evil");
    symlink("../outside", place.inside().join("there")).unwrap();
    let entries = [folder("./"), file("./x")];
    place.refuses(&entries, placing(".", Some("there"), false), "overwrite non-directory");
    let entries = [folder("./"), file("./there/x")];
    place.refuses(&entries, placing(".", None, false), "no folder");
}

#[test]
fn hard_links_reach_nothing_outside() {
    let place = Place::new();
    for target in ["d/../../outside/precious", "/etc/passwd", "outside/precious"] {
        let entries = [folder("d"), entry(Kind::Link, "d/h", target, b"")];
        assert!(place.extract(&entries, placing("d", Some("d"), false)).is_err(), "{target}");
    }
    // A link to a link is one to the link.
    let entries = [
        folder("d"),
        entry(Kind::Symlink, "d/l", "../../outside/precious", b""),
        entry(Kind::Link, "d/h", "d/l", b""),
        file("d/h"),
    ];
    place.extract(&entries, placing("d", Some("d"), false)).unwrap();
}

#[test]
fn devices_and_privileged_programs_are_not_made() {
    let place = Place::new();
    for kind in [Kind::Char, Kind::Block] {
        let entries = [folder("d"), entry(kind, "d/disk", "", b"")];
        place.refuses(&entries, placing("d", Some("d"), false), "is a device");
    }
    place.extract(&[file("f")], placing("f", Some("f"), true)).unwrap();
    let metadata = fs::metadata(place.inside().join("f")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o755);
    assert_eq!((metadata.uid(), metadata.mtime()), (Uid::effective().as_raw(), 1_000_000));
}

#[test]
fn folders_get_their_mode_and_time_once_all_is_in_them() {
    let place = Place::new();
    let mut closed = Header::new_gnu();
    closed.set_entry_type(Kind::Directory);
    closed.set_path("d/").unwrap();
    closed.set_mode(0o555);
    closed.set_mtime(1_000_000);
    closed.set_size(0);
    closed.set_cksum();
    let entries = [closed.as_bytes().to_vec(), file("d/x"), folder("d/s"), file("d/s/y")];
    place.extract(&entries, placing("d", Some("e"), false)).unwrap();
    let metadata = fs::metadata(place.inside().join("e")).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.mtime()), (0o555, 1_000_000));
    assert_eq!(fs::read(place.inside().join("e/s/y")).unwrap(), b"evil");
    fs::set_permissions(place.inside().join("e"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn files_and_folders_do_not_take_each_others_place() {
    let place = Place::new();
    fs::create_dir(place.inside().join("x")).unwrap();
    fs::write(place.inside().join("y"), "").unwrap();
    place.refuses(&[file("f")], placing("f", Some("x"), true), "cannot overwrite directory with");
    let entries = [folder("./")];
    place.refuses(&entries, placing(".", Some("y"), false), "cannot overwrite non-directory");
}

#[test]
fn archive_that_breaks_off_leaves_no_part_of_a_file() {
    let place = Place::new();
    let mut bytes = entry(Kind::Regular, "f", "", &[b'x'; 5000]);
    bytes.truncate(3000);
    let outcome = unpack(&mut bytes.as_slice(), &place.inside(), placing("f", Some("f"), true));
    assert!(outcome.unwrap_err().message().contains("cut short"));
    assert!(!place.inside().join("f").exists());
    for nothing in [&b""[..], &[0; 1024], b"junk"] {
        let outcome = unpack(&mut { nothing }, &place.inside(), placing("f", Some("f"), true));
        assert!(outcome.unwrap_err().message().contains("cut short"));
    }
}
