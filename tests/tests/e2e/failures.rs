//! What a machine or an image may lack: one line that says what, and nothing left behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use husk_tests::image::{Image, Layer, Packing};
use husk_tests::{BUSYBOX, Bed, guest};

/// Checks that loading and running an image is refused with each of `texts`.
fn refuse_image(bed: &Bed, layout: &Path, texts: &[&str]) {
    let source = format!("oci:{}", layout.display());
    bed.husk(&["load", "--progress", "none", &source]).output().refused_with(125, texts);
    bed.husk(&["run", "--progress", "none", &source]).output().refused_with(125, texts);
    assert_eq!(bed.husk(&["images", "-q"]).ok().out(), "");
    bed.assert_nothing_left();
}

fn refuse_layer(layer: &Layer, texts: &[&str]) {
    let bed = Bed::empty();
    let layout = bed.path("layout");
    Image::new().layer(layer, Packing::Gzip).write_layout(&layout, "bad").unwrap();
    refuse_image(&bed, &layout, texts);
}

/// The blobs of a layout, the largest first: that is the layer.
fn blobs(layout: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(layout.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

#[test]
fn entries_that_lead_out_of_the_root_are_refused() {
    let file = |name: &str| Layer::new().file(name, 0o644, "x");
    refuse_layer(&file("../escape"), &["../escape"]);
    refuse_layer(&file("a/../../escape"), &["a/../../escape"]);
    refuse_layer(&Layer::new().hardlink("passwd", "../../etc/passwd"), &["passwd"]);
    refuse_layer(&Layer::new().hardlink("passwd", "no/such/file"), &["no/such/file"]);
    refuse_layer(&file("x").whiteout("../y"), &[".wh."]);
}

#[test]
fn absolute_link_target_is_one_of_the_image_or_refused() {
    // /etc/passwd is there on this machine, but not in this image.
    let layer = Layer::new().hardlink("stolen", "/etc/passwd");
    refuse_layer(&layer, &["/etc/passwd"]);
}

#[test]
fn blob_that_is_not_its_digest_is_refused() {
    let bed = Bed::empty();
    let layout = bed.path("layout");
    let image = Image::new().layer(&Layer::new().file("f", 0o644, vec![1; 9000]), Packing::Tar);
    image.write_layout(&layout, "bad").unwrap();
    let layer = blobs(&layout)[0].clone();
    let mut bytes = fs::read(&layer).unwrap();
    bytes[5000] ^= 1;
    fs::write(&layer, &bytes).unwrap();
    refuse_image(&bed, &layout, &["digest mismatch"]);

    bytes[5000] ^= 1;
    bytes.truncate(6000);
    fs::write(&layer, &bytes).unwrap();
    refuse_image(&bed, &layout, &["layer"]);

    fs::remove_file(&layer).unwrap();
    refuse_image(&bed, &layout, &["layer"]);

    image.write_layout(&layout, "bad").unwrap();
    fs::write(&blobs(&layout)[1], b"{}").unwrap();
    refuse_image(&bed, &layout, &[]);
}

#[test]
fn layer_that_is_corrupt_is_refused() {
    let bed = Bed::empty();
    let layout = bed.path("layout");
    let tar = Layer::new().file("f", 0o644, vec![1; 9000]).to_tar();
    for (number, bad) in
        [&tar[..3000], b"this is no tar archive at all, is it?", &[]].iter().enumerate()
    {
        // Its digests are right: whoever made it, made it so.
        let image = Image::new().tar(bad.to_vec(), Packing::Gzip);
        let layout = layout.join(number.to_string());
        image.write_layout(&layout, "bad").unwrap();
        if bad.is_empty() {
            bed.husk(&["load", &format!("oci:{}", layout.display())]).ok();
            continue;
        }
        refuse_image(&bed, &layout, &["layer"]);
    }
}

#[test]
fn archive_that_is_none_is_refused() {
    let bed = Bed::empty();
    let path = bed.path("archive");
    for bytes in [&b""[..], b"hello", &[0; 20_000]] {
        fs::write(&path, bytes).unwrap();
        for prefix in ["", "oci-archive:", "docker-archive:"] {
            let source = format!("{prefix}{}", path.display());
            bed.husk(&["load", "--progress", "none", &source]).output().refused(125);
        }
        bed.husk(&["load", "--progress", "none"]).stdin(bytes).output().refused(125);
    }
    bed.assert_nothing_left();
}

#[test]
fn machine_without_qemu_is_told_so() {
    let bed = Bed::new();
    let tools = bed.path("bin");
    fs::create_dir(&tools).unwrap();
    symlink("/sbin/mke2fs", tools.join("mke2fs")).unwrap();
    let output =
        bed.run(&[], &["true"]).env("HUSK_HYPERVISOR", "qemu").env("PATH", &tools).output();
    output.refused_with(125, &["run busybox:latest", "qemu-system-x86_64", "apt-get install"]);
    bed.assert_nothing_left();
    // A container that stays is as it was: never started.
    let words = ["run", "--name", "box", BUSYBOX, "true"];
    let run = bed.husk(&words).env("HUSK_HYPERVISOR", "qemu").env("PATH", &tools);
    run.output().refused_with(125, &["qemu"]);
    assert_eq!(bed.state("box").as_deref(), Some("created"));
    bed.husk(&["start", "-a", "box"]).ok();
}

#[test]
fn husk_without_its_guest_image_is_told_so() {
    let bed = Bed::new();
    let nowhere = bed.path("nowhere");
    let output = bed.run(&[], &["true"]).env("HUSK_GUEST_DIR", &nowhere).output();
    let path = nowhere.display().to_string();
    output.refused_with(125, &["no guest image", &path, "make rootfs"]);
    bed.assert_nothing_left();
}

/// Runs a script as root of a mount namespace in which `$T` is a tmpfs of `size`, with husk's data
/// in it.
fn on_small_disk(bed: &Bed, size: &str, script: &str) -> husk_tests::run::Output {
    let folder = bed.path("small");
    fs::create_dir_all(&folder).unwrap();
    let as_root = if nix::unistd::Uid::effective().is_root() { "-m" } else { "-rm" };
    let script = format!(
        "mount -t tmpfs -o size={size} tmpfs \"$T\" && export HUSK_DATA_DIR=\"$T\" && {script}"
    );
    bed.program("unshare", &[as_root, "sh", "-c", &script])
        .env("T", &folder)
        .env("H", bed.bin())
        .env("L", bed.path("images/busybox"))
        .output()
}

#[test]
fn no_space_for_an_image_is_told_and_takes_none() {
    let bed = Bed::new();
    let script = "\"$H\" load --progress none \"oci:$L\"; code=$?; \
                  find \"$T\" -size +64k >&2; \"$H\" images -q >&2; exit $code";
    let line = on_small_disk(&bed, "1m", script).refused(125);
    assert!(line.contains("No space left") || line.contains("no space left"), "{line}");
    bed.assert_nothing_left();
}

#[test]
fn no_space_for_a_writable_layer_is_told_and_leaves_no_container() {
    let bed = Bed::new();
    // Everything is there but room: the image is loaded, and the template made by a first run.
    let script = "\"$H\" load -q --progress none \"oci:$L\" >/dev/null && \
                  \"$H\" run --rm busybox:latest true && \
                  dd if=/dev/zero of=\"$T/fill\" bs=4k 2>/dev/null; \
                  \"$H\" run --progress none busybox:latest true; code=$?; \
                  \"$H\" ps -aq >&2; ls -A \"$T/containers\" | grep -v lock >&2; exit $code";
    let line = on_small_disk(&bed, "64m", script).refused(125);
    assert!(line.contains("No space left") || line.contains("no space left"), "{line}");
    bed.assert_nothing_left();
}

#[test]
fn disk_that_fills_up_under_a_container_is_an_error_inside_and_hangs_nobody() {
    let bed = Bed::new();
    let script = "\"$H\" load -q --progress none \"oci:$L\" >/dev/null && \
                  \"$H\" run --rm busybox:latest sh -c \
                  'dd if=/dev/zero of=/big bs=1M count=200 conv=fsync 2>/dev/null; echo $?'";
    let output = on_small_disk(&bed, "64m", script);
    assert_eq!(output.out(), "1", "{}", output.err());
    bed.assert_nothing_left();
}

/// Runs with a guest image of the test's own, and gives the line that it is refused with.
fn refused_guest(bed: &Bed, folder: &Path) -> String {
    let output = bed.run(&[], &["true"]).env("HUSK_GUEST_DIR", folder).output();
    let line = output.refused(125);
    bed.assert_nothing_left();
    line
}

#[test]
fn kernel_that_is_none_is_told_with_phase_and_status() {
    let bed = Bed::new();
    let folder = bed.path("guest");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("vmlinux"), vec![0x5a; 100_000]).unwrap();
    fs::write(folder.join("initramfs.cpio"), guest::cpio(&[("init", b"x")]).unwrap()).unwrap();
    let line = refused_guest(&bed, &folder);
    assert!(line.contains("qemu"), "{line}");
    assert!(line.contains("ended with exit status") || line.contains("kernel"), "{line}");
}

#[test]
fn guest_that_panics_is_told_with_its_last_words() {
    let bed = Bed::new();
    let folder = bed.path("guest");
    guest::write(&folder, bed.guest(), &[("init", b"this is no program")]).unwrap();
    let line = refused_guest(&bed, &folder);
    for text in ["run busybox:latest", "qemu", "the console says", "Kernel panic"] {
        assert!(line.contains(text), "no {text:?} in {line}");
    }
}

#[test]
fn damaged_state_is_told_with_the_file() {
    let bed = Bed::new();
    bed.husk(&["create", "--name", "box", BUSYBOX]).ok();
    let id = bed.inspect("box")["Id"].as_str().unwrap().to_owned();
    let file = bed.data().join("containers").join(&id).join("config.json");
    let before = fs::read(&file).unwrap();
    fs::write(&file, b"{ not json").unwrap();
    bed.husk(&["ps", "-a"]).output().refused_with(125, &["config.json"]);
    fs::write(&file, before).unwrap();
    assert_eq!(bed.containers(), ["box"]);
}
