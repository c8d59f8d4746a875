//! Root, mounts, devices, masked and read-only paths.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Container, DISK};
use serde_json::json;

use crate::{bed_or_skip, output, refusal};

#[test]
fn writes_go_to_a_layer_that_the_next_container_does_not_see() {
    let bed = bed_or_skip!();
    let said = output(bed, &Container::sh("echo new > /etc/new; cat /etc/new; ls /bin/busybox"));
    assert_eq!(said, "new\n/bin/busybox\n");
    assert_eq!(output(bed, &Container::sh("ls /etc/new 2>/dev/null || echo gone")), "gone\n");
}

#[test]
fn disk_keeps_what_was_written_and_is_clean_after_deletion() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let on_disk = |script: &str| Container::sh(script).disk(DISK);
    output(bed, &on_disk("echo kept > /var/data/file; stat -c %a /"));
    assert_eq!(output(bed, &on_disk("cat /var/data/file; rm /var/data/file")), "kept\n");
    // A file system that was not unmounted has a journal to recover.
    let device = json!([{"path": "/dev/disk", "type": "b", "major": 254, "minor": 32}]);
    let rule = json!({"allow": true, "type": "b", "major": 254, "minor": 32, "access": "r"});
    let container =
        Container::sh("dd if=/dev/disk bs=1 skip=1082 count=2 2>/dev/null | od -An -tx1")
            .with("/linux/devices", device)
            .with("/linux/resources", json!({"devices": [rule]}));
    // s_state of the superblock: EXT4_VALID_FS.
    assert_eq!(output(bed, &container).trim(), "01 00");
}

#[test]
fn read_only_root_has_writable_mounts_all_the_same() {
    let bed = bed_or_skip!();
    let container = Container::sh("touch /x 2>&1; touch /dev/shm/x && echo written")
        .with("/root/readonly", json!(true));
    assert_eq!(output(bed, &container), "touch: /x: Read-only file system\nwritten\n");
}

#[test]
fn masked_files_and_folders_are_empty() {
    let bed = bed_or_skip!();
    let container = Container::sh(
        "cat /masked/file; ls /masked/folder; touch /masked/folder/x 2>&1; ls /masked",
    )
    .with("/linux/maskedPaths", json!(["/masked/file", "/masked/folder", "/missing/path"]));
    let said = output(bed, &container);
    assert_eq!(said, "touch: /masked/folder/x: Read-only file system\nfile\nfolder\n");
}

#[test]
fn read_only_paths_can_be_read_and_not_written() {
    let bed = bed_or_skip!();
    let container =
        Container::sh("cat /masked/file; (echo x > /masked/file) 2>/dev/null || echo refused")
            .with("/linux/readonlyPaths", json!(["/masked", "/missing"]));
    assert_eq!(output(bed, &container), "secret\nrefused\n");
}

#[test]
fn tmpfs_has_its_size_mode_and_flags() {
    let bed = bed_or_skip!();
    let container = Container::sh(
        "stat -c %a /data; grep ' /data ' /proc/mounts | cut -d' ' -f4; \
         dd if=/dev/zero of=/data/x bs=1k count=100 2>&1 | grep -o 'No space.*'",
    )
    .mount(json!({
        "destination": "/data", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "nodev", "noexec", "size=64k", "mode=700"],
    }));
    let said = output(bed, &container);
    let expected =
        "700\nrw,nosuid,nodev,noexec,relatime,size=64k,mode=700\nNo space left on device\n";
    assert_eq!(said, expected);
}

#[test]
fn bind_mount_is_read_only_when_it_says_so_and_makes_its_mount_point() {
    let bed = bed_or_skip!();
    let bind = |options: &[&str]| {
        Container::sh("ls -d /new/place; touch /new/place/x 2>&1; ls /new/place").mount(json!({
            "destination": "/new/place", "type": "bind", "source": "/tmp", "options": options,
        }))
    };
    let said = output(bed, &bind(&["bind", "ro"]));
    assert_eq!(said, "/new/place\ntouch: /new/place/x: Read-only file system\n");
    let missing = Container::sh("true").mount(json!({
        "destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"],
    }));
    let refused = refusal(bed.run(&missing));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("open /no/such"), "{refused:?}");
}

#[test]
fn default_devices_work() {
    let bed = bed_or_skip!();
    let script = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; \
                  echo x > /dev/null; echo x 2>/dev/null > /dev/full || echo full; \
                  readlink /dev/fd; readlink /dev/stdin; readlink /dev/ptmx; echo out > /dev/stdout";
    let said = output(bed, &Container::sh(script));
    assert_eq!(said, "4\n4\nfull\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\nout\n");
}

#[test]
fn devices_of_the_spec_are_made_with_owner_and_mode() {
    let bed = bed_or_skip!();
    let device = json!([
        {"path": "/dev/own/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640,
         "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]);
    let container = Container::sh("stat -c '%a %u %g %t %T %F' /dev/own/null /dev/pipe")
        .with("/linux/devices", device);
    let said = output(bed, &container);
    assert_eq!(said, "640 7 8 1 3 character special file\n600 0 0 0 0 fifo\n");
}

#[test]
fn user_who_is_not_root_can_open_its_streams_again() {
    let bed = bed_or_skip!();
    let container = Container::sh("echo out > /dev/stdout; echo err > /dev/stderr")
        .with("/process/user/uid", json!(1000));
    let ended = bed.run(&container).unwrap();
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn nothing_of_the_guest_is_mounted_inside() {
    let bed = bed_or_skip!();
    let said = output(
        bed,
        &Container::sh("cut -d' ' -f2 /proc/mounts | grep -E '^/(run|husk|init)'; ls /"),
    );
    assert_eq!(said, "bin\ndev\netc\nmasked\nproc\nsys\ntmp\nvar\n");
}

#[test]
fn missing_file_system_names_the_kernel_option() {
    let bed = bed_or_skip!();
    let container =
        Container::sh("true").mount(json!({"destination": "/x", "type": "nfs", "source": "a:/b"}));
    let refused = refusal(bed.run(&container));
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    assert!(refused.message.contains("CONFIG_NFS_FS"), "{refused:?}");
}

#[test]
fn device_that_is_not_there_is_named() {
    let bed = bed_or_skip!();
    let refused = refusal(bed.run(&Container::sh("true").image("absent")));
    assert_eq!(refused.kind, ErrorKind::NotFound);
    assert!(refused.message.contains("absent"), "{refused:?}");
}
