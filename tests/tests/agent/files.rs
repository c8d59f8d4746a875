//! Files of containers in and out, as tar streams; what a hostile container or archive does not
//! get.

use std::{collections::HashMap, io::Read, time::Duration};

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container};
use tar::{EntryType, Header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{bed_or_skip, said};

/// Runs a case on a container that sleeps.
fn with_container(case: impl AsyncFnOnce(&'static Bed, &str)) {
    let Some(bed) = crate::bed() else { return };
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        case(bed, &id).await;
        bed.remove(&id).await.unwrap();
    });
}

/// Kind, mode, owner, target and content of each entry.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    target: String,
    content: Vec<u8>,
}

fn entries(archive: &[u8]) -> HashMap<String, Entry> {
    let mut archive = tar::Archive::new(archive);
    let entry = |mut entry: tar::Entry<'_, &[u8]>| {
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let target = entry.link_name().unwrap();
        let target = target.map(|target| target.to_str().unwrap().to_owned()).unwrap_or_default();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        let (kind, mode) = (header.entry_type(), header.mode().unwrap());
        (path, Entry { kind, mode, owner, target, content })
    };
    archive.entries().unwrap().map(|found| entry(found.unwrap())).collect()
}

fn header(kind: EntryType, mode: u32, owner: (u64, u64), size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header.set_mtime(1_000_000_000);
    header.set_size(size as u64);
    header
}

/// An archive whose names are taken as they are.
struct Archive(Vec<u8>);

impl Archive {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, mut header: Header, name: &str, target: &str, content: &[u8]) -> Self {
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        let header = header(EntryType::Regular, 0o644, (0, 0), content.len());
        self.add(header, name, "", content.as_bytes())
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.add(header(kind, 0o777, (0, 0), 0), name, target, b"")
    }

    fn folder(self, name: &str) -> Self {
        self.add(header(EntryType::Directory, 0o755, (0, 0), 0), name, "", b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

#[test]
fn folder_comes_out_with_names_below_its_own() {
    with_container(async |bed, id| {
        let script = "mkdir -p /tmp/out/sub; echo text > /tmp/out/file; chmod 4751 /tmp/out/file; \
                      ln -s /etc/passwd /tmp/out/link; touch '/tmp/out/sub/a b'";
        said(bed, id, script).await;
        let found = entries(&bed.copy_out(id, "/tmp/out").await.unwrap());
        let mut names: Vec<&str> = found.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["out/", "out/file", "out/link", "out/sub/", "out/sub/a b"]);
        assert_eq!(found["out/file"].mode, 0o4751);
        assert_eq!(found["out/file"].content, b"text\n");
        assert_eq!(found["out/link"].target, "/etc/passwd");
        let inner = entries(&bed.copy_out(id, "/tmp/out/.").await.unwrap());
        assert!(inner.contains_key("./file"), "{:?}", inner.keys());
    });
}

#[test]
fn large_file_comes_out_as_it_is() {
    with_container(async |bed, id| {
        let sum =
            said(bed, id, "head -c 3000001 /dev/urandom > /tmp/large; md5sum < /tmp/large").await;
        let archive = bed.copy_out(id, "/tmp/large").await.unwrap();
        assert_eq!(entries(&archive)["large"].content.len(), 3_000_001);
        let into = bed.copy_in(id, "/var/data", &archive, None).await.unwrap();
        assert_eq!(into, (1, 3_000_001));
        assert_eq!(said(bed, id, "md5sum < /var/data/large").await, sum);
    });
}

#[test]
fn owners_modes_and_times_come_in_as_the_archive_has_them() {
    with_container(async |bed, id| {
        let archive = Archive::new()
            .add(header(EntryType::Directory, 0o2750, (33, 34), 0), "in/", "", b"")
            .add(header(EntryType::Regular, 0o6755, (1000, 50), 3), "in/file", "", b"abc")
            .end();
        bed.copy_in(id, "/tmp", &archive, None).await.unwrap();
        let look = "stat -c '%a %u %g %Y' /tmp/in /tmp/in/file; cat /tmp/in/file";
        let expected = "2750 33 34 1000000000\n6755 1000 50 1000000000\nabc";
        assert_eq!(said(bed, id, look).await, expected);
        bed.copy_in(id, "/tmp", &archive, Some((5, 6))).await.unwrap();
        let expected = "2750 5 6 1000000000\n6755 5 6 1000000000\nabc";
        assert_eq!(said(bed, id, look).await, expected);
    });
}

#[test]
fn links_nodes_and_pipes_come_in_as_what_they_are() {
    with_container(async |bed, id| {
        let mut device = header(EntryType::Char, 0o640, (0, 0), 0);
        device.set_device_major(1).unwrap();
        device.set_device_minor(3).unwrap();
        let archive = Archive::new()
            .file("one", "same")
            .link(EntryType::Link, "two", "one")
            .link(EntryType::Symlink, "soft", "/nowhere/at/all")
            .add(device, "null", "", b"")
            .add(header(EntryType::Fifo, 0o600, (0, 0), 0), "pipe", "", b"")
            .end();
        assert_eq!(bed.copy_in(id, "/var/data", &archive, None).await.unwrap().0, 5);
        let look = "cd /var/data; stat -c '%F %h' one two; readlink soft; stat -c '%F %t %T' null; \
                    stat -c %F pipe";
        let expected = "regular file 2\nregular file 2\n/nowhere/at/all\n\
                        character special file 1 3\nfifo\n";
        assert_eq!(said(bed, id, look).await, expected);
    });
}

#[test]
fn pipe_and_device_come_out_without_being_opened() {
    with_container(async |bed, id| {
        said(bed, id, "mkdir /tmp/odd; mkfifo /tmp/odd/pipe").await;
        let found = entries(&bed.copy_out(id, "/tmp/odd").await.unwrap());
        assert_eq!(found["odd/pipe"].kind, EntryType::Fifo);
        let found = entries(&bed.copy_out(id, "/dev/zero").await.unwrap());
        assert_eq!(found["zero"].kind, EntryType::Char);
        assert!(found["zero"].content.is_empty());
    });
}

#[test]
fn files_of_the_kernel_end() {
    with_container(async |bed, id| {
        let found = entries(&bed.copy_out(id, "/proc/uptime").await.unwrap());
        assert!(found["uptime"].content.is_empty());
        let found = entries(
            &bed.copy_out(id, "/sys/kernel/mm/transparent_hugepage/enabled").await.unwrap(),
        );
        assert!(found["enabled"].content.ends_with(b"\n"));
        // On the way through the whole tree they are left out.
        let found = entries(&bed.copy_out(id, "/").await.unwrap());
        assert!(found.contains_key("./proc/") && found.contains_key("./bin/busybox"));
        assert!(!found.keys().any(|name| name.starts_with("./proc/1") || name.len() > 4000));
    });
}

#[test]
fn second_name_of_a_file_comes_out_as_a_link() {
    with_container(async |bed, id| {
        said(bed, id, "mkdir /tmp/names; echo x > /tmp/names/a; ln /tmp/names/a /tmp/names/b")
            .await;
        let found = entries(&bed.copy_out(id, "/tmp/names").await.unwrap());
        let kinds: Vec<EntryType> =
            ["names/a", "names/b"].iter().map(|name| found[*name].kind).collect();
        assert!(kinds.contains(&EntryType::Link) && kinds.contains(&EntryType::Regular));
    });
}

#[test]
fn long_names_survive_both_ways() {
    with_container(async |bed, id| {
        let name = "n".repeat(200);
        said(bed, id, &format!("mkdir -p /tmp/long/{name}; echo x > /tmp/long/{name}/{name}"))
            .await;
        let archive = bed.copy_out(id, "/tmp/long").await.unwrap();
        assert!(entries(&archive).contains_key(&format!("long/{name}/{name}")));
        bed.copy_in(id, "/var/data", &archive, None).await.unwrap();
        let look = format!("cat /var/data/long/{name}/{name}");
        assert_eq!(said(bed, id, &look).await, "x\n");
    });
}

#[test]
fn entry_that_leads_out_of_the_folder_is_refused() {
    with_container(async |bed, id| {
        for name in ["../evil", "a/../../evil", ".."] {
            let archive = Archive::new().file(name, "x").end();
            let refused = bed.copy_in(id, "/tmp", &archive, None).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Invalid);
            assert!(refused.message.contains("leads out of the folder"), "{refused:?}");
        }
        let archive = Archive::new().link(EntryType::Link, "mine", "../etc/passwd").end();
        let refused = bed.copy_in(id, "/tmp", &archive, None).await.unwrap_err();
        assert!(refused.message.contains("leads out of the folder"), "{refused:?}");
        assert_eq!(said(bed, id, "ls /tmp; ls -d /evil 2>/dev/null || echo none").await, "none\n");
    });
}

#[test]
fn absolute_entry_lands_below_the_folder() {
    with_container(async |bed, id| {
        let archive = Archive::new().file("/etc/landed", "x").end();
        bed.copy_in(id, "/tmp", &archive, None).await.unwrap();
        assert_eq!(
            said(bed, id, "ls /tmp/etc; ls /etc/landed 2>/dev/null || echo none").await,
            "landed\nnone\n"
        );
    });
}

#[test]
fn no_entry_goes_through_a_symbolic_link() {
    with_container(async |bed, id| {
        // One of the archive's own.
        let archive = Archive::new()
            .link(EntryType::Symlink, "door", "/etc")
            .file("door/passwd", "evil")
            .end();
        let refused = bed.copy_in(id, "/tmp", &archive, None).await.unwrap_err();
        assert!(refused.message.contains("a part of its path is no folder"), "{refused:?}");
        // One of the container's, in the place of a file: it is replaced and not followed.
        said(bed, id, "ln -s /etc/group /tmp/file").await;
        let archive = Archive::new().file("file", "new").end();
        bed.copy_in(id, "/tmp", &archive, None).await.unwrap();
        let look = "cat /tmp/file; grep -c evil /etc/passwd; head -n 1 /etc/group";
        let ended = bed.run_exec(id, &husk_tests::agent_bed::process(&["sh", "-c", look])).await;
        assert_eq!(ended.unwrap().stdout, "new0\nroot:x:0:\n");
    });
}

#[test]
fn path_through_links_of_the_container_stays_in_its_root() {
    with_container(async |bed, id| {
        said(bed, id, "ln -s ../../../../../../run/husk /tmp/up; ln -s /proc/1/root /tmp/magic")
            .await;
        for path in ["/tmp/up/files", "/tmp/magic/run", "/../../run/husk/files", "/proc/1/root/run"]
        {
            let refused = bed.copy_out(id, path).await.unwrap_err();
            assert!(
                matches!(refused.kind, ErrorKind::NotFound | ErrorKind::Internal),
                "{refused:?}"
            );
        }
        let found = entries(&bed.copy_out(id, "/tmp/up").await.unwrap());
        assert_eq!(found["up"].kind, EntryType::Symlink);
        let status = bed.stat(id, "/tmp/up").await.unwrap();
        assert_eq!(status.link_target, "../../../../../../run/husk");
        assert_eq!(status.mode & 0o170_000, 0o120_000);
    });
}

#[test]
fn file_and_folder_do_not_replace_each_other() {
    with_container(async |bed, id| {
        said(bed, id, "mkdir -p /tmp/folder/full; echo kept > /tmp/file").await;
        let archive = Archive::new().file("folder", "x").end();
        let refused = bed.copy_in(id, "/tmp", &archive, None).await.unwrap_err();
        assert!(refused.message.contains("a folder is in its place"), "{refused:?}");
        let archive = Archive::new().folder("file/").end();
        let refused = bed.copy_in(id, "/tmp", &archive, None).await.unwrap_err();
        assert!(refused.message.contains("something else is in its place"), "{refused:?}");
        assert_eq!(said(bed, id, "cat /tmp/file; ls /tmp/folder").await, "kept\nfull\n");
    });
}

#[test]
fn destination_must_be_a_folder_that_is_there() {
    with_container(async |bed, id| {
        let archive = Archive::new().file("x", "x").end();
        for (path, kind) in [
            ("/nothing", ErrorKind::NotFound),
            ("/etc/passwd", ErrorKind::Invalid),
            ("tmp", ErrorKind::Invalid),
            ("", ErrorKind::Invalid),
        ] {
            assert_eq!(
                bed.copy_in(id, path, &archive, None).await.unwrap_err().kind,
                kind,
                "{path}"
            );
        }
        let refused = bed.copy_out(id, "/nothing").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotFound);
        assert!(bed.stat(id, "/nothing").await.is_err());
        assert!(bed.stat("no-such", "/").await.is_err());
    });
}

#[test]
fn archive_that_ends_early_leaves_whole_files_only() {
    with_container(async |bed, id| {
        let archive = Archive::new().file("first", "whole").file("second", &"x".repeat(5000)).end();
        let refused = bed.copy_in(id, "/tmp", &archive[..4096], None).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
        let words = "the archive ends early, in second, after 1 entries";
        assert!(refused.message.contains(words), "{refused:?}");
        assert_eq!(said(bed, id, "cat /tmp/first; ls /tmp").await, "wholefirst\n");
        let refused = bed.copy_in(id, "/tmp", &archive[..100], None).await.unwrap_err();
        assert!(refused.message.contains("in a header, after 0 entries"), "{refused:?}");
    });
}

#[test]
fn what_is_no_archive_is_refused_with_the_reason() {
    with_container(async |bed, id| {
        let refused = bed.copy_in(id, "/tmp", &[7; 2048], None).await.unwrap_err();
        assert!(refused.message.contains("checksum"), "{refused:?}");
        let endless = header(EntryType::GNULongName, 0, (0, 0), 1 << 40);
        let archive = Archive::new().add(endless, "name", "", b"x").end();
        let refused = bed.copy_in(id, "/tmp", &archive, None).await.unwrap_err();
        assert!(refused.message.contains("too long"), "{refused:?}");
        let archive = Archive::new().add(header(EntryType::new(b'Z'), 0, (0, 0), 0), "z", "", b"");
        let refused = bed.copy_in(id, "/tmp", &archive.end(), None).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unsupported, "{refused:?}");
    });
}

#[test]
fn created_and_stopped_containers_have_files_too() {
    let bed = bed_or_skip!();
    let container = Container::sh("cat /tmp/before; echo x > /tmp/after");
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        let archive = Archive::new().file("before", "from the host\n").end();
        bed.copy_in(&container.id, "/tmp", &archive, None).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let ended = bed.finish(&container.id, "", stdio, b"").await.unwrap();
        assert_eq!(ended.stdout, "from the host\n", "{ended:?}");
        let found = entries(&bed.copy_out(&container.id, "/tmp/after").await.unwrap());
        assert_eq!(found["after"].content, b"x\n");
        bed.delete(&container.id).await.unwrap();
        assert!(bed.copy_out(&container.id, "/tmp/after").await.is_err());
    });
}

#[test]
fn what_is_mounted_in_the_container_is_what_is_copied() {
    let bed = bed_or_skip!();
    let tmpfs = serde_json::json!({"destination": "/scratch", "type": "tmpfs"});
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000").mount(tmpfs)).await.unwrap();
        let archive = Archive::new().file("in", "x").end();
        bed.copy_in(&id, "/scratch", &archive, None).await.unwrap();
        assert_eq!(said(bed, &id, "cat /scratch/in; echo y > /scratch/out").await, "x");
        assert_eq!(entries(&bed.copy_out(&id, "/scratch/out").await.unwrap()).len(), 1);
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn tree_that_changes_meanwhile_is_copied_to_its_end() {
    with_container(async |bed, id| {
        let script = "mkdir /tmp/busy; i=0; while [ $i -lt 40 ]; do echo $i > /tmp/busy/$i; i=$((i+1)); done; \
                      (while :; do rm -rf /tmp/busy/7; mkdir /tmp/busy/7; rm -rf /tmp/busy/7; \
                      ln -s / /tmp/busy/7; done) > /dev/null 2>&1 &";
        said(bed, id, script).await;
        for _ in 0..5 {
            let found = entries(&bed.copy_out(id, "/tmp/busy").await.unwrap());
            assert!(found.contains_key("busy/39"), "{:?}", found.keys());
            assert!(!found.keys().any(|name| name.contains("passwd")), "{:?}", found.keys());
        }
    });
}

#[test]
fn client_that_vanishes_in_the_middle_ends_the_copy() {
    with_container(async |bed, id| {
        said(bed, id, "head -c 8000000 /dev/zero > /tmp/large").await;
        let (token, mut stream) = bed.open().await.unwrap();
        let request = Bed::out_request(id, "/tmp/large", token);
        let read_a_little = async {
            let mut some = [0; 1000];
            stream.read_exact(&mut some).await.unwrap();
            drop(stream);
        };
        let (answer, ()) = tokio::join!(bed.copy_out_to(&request), read_a_little);
        assert!(answer.unwrap_err().message.contains("write the stream"));
    });
}

#[test]
fn client_that_stalls_does_not_keep_the_container() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let large = Container::sh("head -c 8000000 /dev/zero > /tmp/large; sleep 1000");
        let id = bed.launch(&large).await.unwrap();
        while bed.stat(&id, "/tmp/large").await.map_or(0, |status| status.size) < 8_000_000 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (token, mut stream) = bed.open().await.unwrap();
        let request = Bed::out_request(&id, "/tmp/large", token);
        let stall = async {
            let mut some = [0; 1000];
            stream.read_exact(&mut some).await.unwrap();
            bed.remove(&id).await.unwrap();
        };
        let (answer, ()) = tokio::join!(bed.copy_out_to(&request), stall);
        let refused = answer.unwrap_err();
        assert!(refused.message.contains("the container is being deleted"), "{refused:?}");
        let _ = stream.shutdown().await;
    });
}
