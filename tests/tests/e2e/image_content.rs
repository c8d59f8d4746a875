//! What layers say, seen from inside a container: links, owners, modes, attributes, devices,
//! whiteouts.

use husk_tests::Bed;
use husk_tests::bed::{busybox, busybox_program};
use husk_tests::image::{Layer, Packing};

/// linux/capability.h, `vfs_cap_data` of version 2: effective, and permitted `CAP_CHOWN` alone.
const CHOWN_CAPABILITY: [u8; 20] = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn layers_are_flattened_as_the_image_spec_has_it() {
    let bed = Bed::new();
    let below = Layer::new()
        .dir("data", 0o755)
        .file("data/removed", 0o644, "x")
        .file("data/kept", 0o644, "below")
        .file("data/replaced", 0o644, "below")
        .dir("data/tree", 0o755)
        .file("data/tree/inner", 0o644, "x")
        .dir("data/opaque", 0o755)
        .file("data/opaque/old", 0o644, "old")
        .dir("data/turned", 0o755)
        .file("data/turned/inside", 0o644, "x");
    let above = Layer::new()
        .whiteout("data/removed")
        .whiteout("data/tree")
        .file("data/replaced", 0o600, "above")
        .dir("data/opaque", 0o700)
        .opaque("data/opaque")
        .file("data/opaque/new", 0o644, "new")
        .file("data/turned", 0o644, "a file now");
    let image = busybox().layer(&below, Packing::Gzip).layer(&above, Packing::Zstd);
    bed.load(&image, "layers", "1");
    let script = "cd /data; ls -A | sort | tr '\\n' ' '; ls -A opaque; cat kept replaced turned; \
                  stat -c ' %a' replaced opaque";
    let output = bed.husk(&["run", "--rm", "layers:1", "sh", "-c", script]).ok();
    assert_eq!(output.out(), "kept opaque replaced turned new\nbelowabovea file now 600\n 700");
}

#[test]
fn links_owners_modes_and_special_files_are_what_they_were() {
    let bed = Bed::new();
    let layer = Layer::new()
        .dir("t", 0o1777)
        .owner(1000, 29)
        .file("t/a", 0o640, "content")
        .owner(1000, 4_000_000_000)
        .hardlink("t/b", "t/a")
        .symlink("t/absolute", "/etc/passwd")
        .symlink("t/dangling", "../no/where")
        .symlink("t/up", "../../../../../../etc/group")
        .fifo("t/pipe", 0o622)
        .char_device("t/null", 0o666, 1, 3)
        .file("t/suid", 0o4755, "x")
        .file("t/sgid", 0o2755, "x")
        .file("t/empty", 0o644, "")
        .file("t/large", 0o644, vec![7; 300_000]);
    bed.load(&busybox().layer(&layer, Packing::Tar), "special", "1");
    let script = "cd /t; for f in a b pipe null suid sgid empty large . ; do stat -c '%n %F %a %u:%g %h %s' $f; done; \
                  [ $(stat -c %i a) = $(stat -c %i b) ] && echo same; \
                  for l in absolute dangling up; do readlink $l; done; head -n 1 up; stat -c '%t:%T' null; md5sum < large";
    let output = bed.husk(&["run", "--rm", "special:1", "sh", "-c", script]).ok().out();
    let lines: Vec<&str> = output.lines().collect();
    let wanted = [
        "a regular file 640 1000:4000000000 2 7",
        "b regular file 640 1000:4000000000 2 7",
        "pipe fifo 622 0:0 1 0",
        "null character special file 666 0:0 1 0",
        "suid regular file 4755 0:0 1 1",
        "sgid regular file 2755 0:0 1 1",
        "empty regular empty file 644 0:0 1 0",
        "large regular file 644 0:0 1 300000",
    ];
    assert_eq!(lines[..8], wanted, "{output}");
    assert!(lines[8].starts_with(". directory 1777 1000:29 "), "{output}");
    assert_eq!(
        lines[9..15],
        ["same", "/etc/passwd", "../no/where", "../../../../../../etc/group", "root:x:0:", "1:3"]
    );
    let zeroes = "dd if=/dev/zero bs=1000 count=300 2>/dev/null | tr '\\0' '\\7' | md5sum";
    assert_eq!(lines[15], bed.sh(&[], zeroes).ok().out());
}

#[test]
fn file_capability_in_the_image_counts() {
    let bed = Bed::new();
    let layer = Layer::new()
        .dir("caps", 0o755)
        .file("caps/chown", 0o755, busybox_program())
        .xattr("security.capability", &CHOWN_CAPABILITY);
    bed.load(&busybox().layer(&layer, Packing::Tar), "caps", "1");
    let script = "touch /tmp/f; chown 7 /tmp/f 2>/dev/null && echo plain; \
                  /caps/chown 7 /tmp/f && stat -c %u /tmp/f";
    let output = bed.husk(&["run", "--rm", "-u", "user", "caps:1", "sh", "-c", script]).ok();
    assert_eq!(output.out(), "7");
}

#[test]
fn links_of_an_image_lead_nowhere_but_into_it() {
    let bed = Bed::new();
    // Mount points that are links out of the root, as far as they can lead.
    let layer = Layer::new()
        .symlink("escape", "/../../../../../../..")
        .dir("mnt", 0o755)
        .symlink("mnt/scratch", "/escape/etc");
    bed.load(&busybox().layer(&layer, Packing::Tar), "escape", "1");
    let words = ["run", "--rm", "--tmpfs", "/mnt/scratch", "escape:1", "sh", "-c"];
    let script =
        "touch /etc/on-tmpfs && grep -c ' /etc tmpfs ' /proc/self/mounts; ls /escape | grep -c bin";
    let output = bed.husk(&[&words[..], &[script]].concat()).ok().out();
    let counts: Vec<u32> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert!(counts.len() == 2 && counts.iter().all(|&count| count >= 1), "{output}");
}

#[test]
fn image_without_the_usual_folders_runs() {
    let bed = Bed::new();
    let layer = Layer::new().file("busybox", 0o755, busybox_program());
    let image = husk_tests::image::Image::new().layer(&layer, Packing::Tar);
    bed.load(&image, "bare", "1");
    let words = ["run", "--rm", "-h", "bare", "bare:1", "/busybox", "sh", "-c"];
    let script = "/busybox ls / | /busybox tr '\\n' ' '; /busybox cat /etc/hostname";
    let output = bed.husk(&[&words[..], &[script]].concat()).ok().out();
    assert_eq!(output, "busybox dev etc proc sys bare");
    let output = bed.husk(&["run", "--rm", "--read-only", "bare:1", "/busybox", "true"]).output();
    assert_eq!(output.code, 0, "{}", output.err());
}
