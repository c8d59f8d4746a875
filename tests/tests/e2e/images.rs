//! `load`, `images`, `rmi`: every kind of source, names and ids.

use std::fs;

use husk_tests::bed::busybox;
use husk_tests::image::{Image, Layer, Packing};
use husk_tests::{BUSYBOX, Bed};
use serde_json::{Value, json};

/// An image with a mark by which a run of it is told from another one's.
fn marked(mark: &str, packing: Packing) -> Image {
    let image = busybox().layer(&Layer::new().file("mark", 0o644, mark), packing);
    image.set("Cmd", json!(["cat", "/mark"]))
}

#[test]
fn every_kind_of_source_loads_and_runs() {
    let bed = Bed::new();
    let kinds =
        ["layout", "oci", "docker", "oci-gzip", "oci-zstd", "docker-gzip", "stdin", "plain"];
    for kind in kinds {
        let packing = match kind {
            "oci" | "plain" => Packing::Zstd,
            "layout" | "stdin" => Packing::Gzip,
            _ => Packing::Tar,
        };
        let image = marked(kind, packing);
        let path = bed.path(&format!("{kind}.tar"));
        let oci = || image.oci_archive(&format!("src/{kind}:1"));
        let docker = || image.docker_archive(&format!("src/{kind}:1"));
        let mut stdin = Vec::new();
        let source = match kind {
            "layout" => {
                image.write_layout(&path, &format!("src/{kind}:1")).unwrap();
                format!("oci:{}", path.display())
            }
            "stdin" => {
                stdin = Packing::Gzip.pack(&oci());
                "-".to_owned()
            }
            _ => {
                let (prefix, bytes) = match kind {
                    "oci" => ("oci-archive:", oci()),
                    "oci-gzip" => ("oci-archive:", Packing::Gzip.pack(&oci())),
                    "oci-zstd" => ("oci-archive:", Packing::Zstd.pack(&oci())),
                    "docker" => ("docker-archive:", docker()),
                    "docker-gzip" => ("docker-archive:", Packing::Gzip.pack(&docker())),
                    _ => ("", docker()),
                };
                fs::write(&path, bytes).unwrap();
                format!("{prefix}{}", path.display())
            }
        };
        let loaded = bed.husk(&["load", &source]).stdin(stdin).ok();
        assert_eq!(loaded.out(), format!("Loaded image: src/{kind}:1"), "{kind}");
        assert_eq!(bed.inspect(&format!("src/{kind}:1"))["Id"], image.id(), "{kind}");
    }
    for kind in kinds {
        assert_eq!(bed.husk(&["run", "--rm", &format!("src/{kind}:1")]).ok().out(), kind);
    }
    bed.assert_nothing_left();
}

#[test]
fn docker_load_spelling_works_too() {
    let bed = Bed::empty();
    let image = marked("x", Packing::Tar);
    let path = bed.path("image.tar");
    fs::write(&path, image.docker_archive("x:1")).unwrap();
    let path = path.display().to_string();
    assert_eq!(bed.husk(&["load", "-i", &path]).ok().out(), "Loaded image: x:1");
    let quiet = bed.husk(&["load", "-q", "--input", &path]).ok();
    assert_eq!((quiet.out(), quiet.err()), (image.id(), String::new()));
    let input = fs::read(&path).unwrap();
    assert_eq!(bed.husk(&["load"]).stdin(input).ok().out(), "Loaded image: x:1");
    bed.assert_idle();
}

#[test]
fn progress_is_plain_lines_where_there_is_no_terminal_and_nothing_when_asked() {
    let bed = Bed::empty();
    let path = bed.path("layout");
    marked("x", Packing::Gzip).write_layout(&path, "x:1").unwrap();
    let source = format!("oci:{}", path.display());
    let plain = bed.husk(&["load", &source]).ok().err();
    assert!(
        plain.lines().count() >= 2 && !plain.contains('\r') && !plain.contains('\x1b'),
        "{plain}"
    );
    let bed = Bed::empty();
    assert_eq!(bed.husk(&["load", "--progress", "none", &source]).ok().err(), "");
}

#[test]
fn images_are_listed_with_dockers_columns() {
    let bed = Bed::empty();
    let (one, two) = (marked("one", Packing::Tar), marked("two", Packing::Tar));
    bed.load(&one, "app", "1");
    bed.load(&one, "app", "stable");
    bed.load(&two, "registry.test/team/other", "2");
    let table = bed.husk(&["images"]).ok().out();
    assert!(table.starts_with("REPOSITORY "), "{table}");
    let format = ["images", "--format", "{{.Repository}} {{.Tag}} {{.ID}}"];
    let mut rows: Vec<String> = bed.husk(&format).ok().out().lines().map(str::to_owned).collect();
    rows.sort();
    let short = |image: &Image| image.id()[7..19].to_owned();
    let wanted = [
        format!("app 1 {}", short(&one)),
        format!("app stable {}", short(&one)),
        format!("other 2 {}", short(&two)),
    ];
    assert_eq!(rows, wanted);
    let quiet = bed.husk(&["images", "-q", "--no-trunc", "app:1"]).ok();
    assert_eq!(quiet.out(), one.id());
    assert_eq!(bed.husk(&["images", "-q", "nothing"]).ok().out(), "");
    let json = bed.husk(&["images", "--format", "json", "app:1"]).ok().out();
    let row: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(row["Repository"], "app");
    // One disk for two names.
    let disk = |name: &str| bed.inspect(name)["Husk"]["Disk"].clone();
    assert_eq!(disk("app:1"), disk("app:stable"));
}

#[test]
fn image_goes_with_its_last_name_and_not_while_it_is_used() {
    let bed = Bed::empty();
    let image = marked("x", Packing::Tar);
    bed.load(&image, "app", "1");
    bed.load(&image, "app", "2");
    let removed = bed.husk(&["rmi", "app:1"]).ok().out();
    assert_eq!(removed, "Untagged: app:1");
    bed.husk(&["create", "--name", "user", "app:2"]).ok();
    bed.husk(&["rmi", "app:2"]).output().refused_with(125, &["rmi app:2", "user"]);
    bed.husk(&["rmi", "-f", "app:2"]).output().refused_with(125, &["user"]);
    bed.husk(&["rm", "user"]).ok();
    let removed = bed.husk(&["rmi", "app:2"]).ok().out();
    assert_eq!(removed, format!("Untagged: app:2\nDeleted: {}", image.id()));
    bed.husk(&["rmi", "app:2"]).output().refused_with(125, &["no such image: app:2"]);
    bed.husk(&["rmi", "-f", "app:2"]).ok();
    assert_eq!(bed.husk(&["images", "-q"]).ok().out(), "");
}

#[test]
fn containers_share_one_image_and_cannot_write_to_it() {
    let bed = Bed::new();
    let disk = bed.inspect(BUSYBOX)["Husk"]["Disk"].as_str().unwrap().to_owned();
    let before = fs::read(&disk).unwrap();
    for name in ["one", "two"] {
        bed.start_sh(name, "sleep 1000");
    }
    let write = "echo changed > /etc/passwd; rm /bin/vi; sync";
    bed.exec_sh("one", write).ok();
    let seen = bed.exec_sh("two", "head -n 1 /etc/passwd; ls /bin/vi").ok();
    assert_eq!(seen.out(), "root:x:0:0:root:/root:/bin/sh\n/bin/vi");
    // Both VMs have the same file open, and neither can write it.
    let vms: Vec<i32> = bed.vmms().iter().map(|process| process.pid).collect();
    assert_eq!(vms.len(), 2);
    for pid in vms {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let images: Vec<_> = fds
            .filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == disk.as_str()))
            .collect();
        assert!(!images.is_empty(), "the image's disk is not open in {pid}");
        for fd in images {
            let number = fd.file_name().into_string().unwrap();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            assert_eq!(flags & 0o3, 0, "{number} of {pid} is open for writing");
        }
    }
    assert!(fs::read(&disk).unwrap() == before, "the image has changed");
}

#[test]
fn load_that_is_killed_leaves_nothing_and_can_be_done_again() {
    let bed = Bed::empty();
    let big: Vec<u8> = (0..40_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let image = busybox().layer(&Layer::new().file("big", 0o644, big), Packing::Tar);
    let layout = bed.path("layout");
    image.write_layout(&layout, "big:1").unwrap();
    let source = format!("oci:{}", layout.display());
    for wait_ms in [0, 5, 20, 60, 120] {
        let load = bed.husk(&["load", &source]).spawn();
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        load.signal(nix::sys::signal::Signal::SIGKILL);
        assert!([0, 137].contains(&load.wait().code));
        // The next look clears what it finds: half an image is never listed.
        let listed = bed.husk(&["images", "-q", "--no-trunc"]).ok().out();
        assert!(listed.is_empty() || listed == image.id(), "{listed}");
        bed.assert_idle();
    }
    bed.husk(&["load", &source]).ok();
    assert_eq!(bed.husk(&["images", "-q", "--no-trunc"]).ok().out(), image.id());
}

#[test]
fn same_image_loaded_by_many_at_once_is_made_once() {
    let bed = Bed::empty();
    let image = marked("x", Packing::Gzip);
    let layout = bed.path("layout");
    image.write_layout(&layout, "x:1").unwrap();
    let source = format!("oci:{}", layout.display());
    let loads: Vec<_> = (0..4).map(|_| bed.husk(&["load", "-q", &source]).spawn()).collect();
    for load in loads {
        assert_eq!(load.wait().code(0).out(), image.id());
    }
    assert_eq!(bed.husk(&["images", "-q"]).ok().out().lines().count(), 1);
    bed.assert_idle();
}

#[test]
fn progress_on_a_terminal_is_bars_that_are_gone_at_the_end() {
    let bed = Bed::empty();
    let path = bed.path("layout");
    let big: Vec<u8> = (0..4_u32 << 20).flat_map(u32::to_le_bytes).collect();
    let image = busybox().layer(&Layer::new().file("big", 0o644, big), Packing::Gzip);
    image.write_layout(&path, "x:1").unwrap();
    let mut term = bed.on_terminal(&["load", &format!("oci:{}", path.display())]);
    assert_eq!(term.wait(), 0);
    // Who reads the terminal may be behind the end of the command.
    term.expect("Loaded image: x:1");
    let screen = term.screen();
    assert!(screen.contains('\x1b'), "{screen:?}");
    assert!(screen.trim_end().ends_with("Loaded image: x:1"), "{screen:?}");
}
