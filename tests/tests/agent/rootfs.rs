//! The root of a container: config.md, "Root"; config-linux.md, "Default Filesystems", "Masked
//! Paths", "Readonly Paths" and "Rootfs Mount Propagation"; and what a privileged container is
//! given.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Container, DISK, HOSTILE_IMAGE};
use serde_json::{Value, json};

use crate::{bed_or_skip, output, refusal};

fn capable(container: Container, capability: &str) -> Container {
    let all = json!([capability, "CAP_DAC_OVERRIDE"]);
    container
        .with("/process/capabilities", json!({"bounding": all, "permitted": all, "effective": all}))
}

#[test]
fn path_of_the_root_is_the_hosts_business() {
    let bed = bed_or_skip!();
    for path in ["/no/such/path", "relative", "../.."] {
        let container = Container::sh("ls -d /bin").with("/root/path", json!(path));
        assert_eq!(output(bed, &container), "/bin\n");
    }
}

#[test]
fn spec_without_a_root_is_refused() {
    let bed = bed_or_skip!();
    let container = Container::sh("true").with("/root", json!(null));
    let refused = refusal(bed.run(&container));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("root: is missing"), "{refused:?}");
}

#[test]
fn default_file_systems_are_of_their_kinds() {
    let bed = bed_or_skip!();
    let script = "for m in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys /sys/fs/cgroup; do \
                  grep \" $m \" /proc/self/mounts | tail -n 1 | cut -d' ' -f3; done";
    assert_eq!(
        output(bed, &Container::sh(script)),
        "proc\ntmpfs\ndevpts\ntmpfs\nmqueue\nsysfs\ncgroup2\n"
    );
}

#[test]
fn container_without_mounts_has_its_root_and_devices() {
    let bed = bed_or_skip!();
    let container =
        Container::sh("head -c 1 /dev/zero | wc -c; ls /proc /sys 2>/dev/null; echo x > /dev/null")
            .with("/mounts", json!([]))
            .with("/linux/maskedPaths", json!(null))
            .with("/linux/readonlyPaths", json!(null));
    assert_eq!(output(bed, &container), "1\n");
}

#[test]
fn read_only_root_refuses_every_kind_of_change() {
    let bed = bed_or_skip!();
    let script = "for c in 'touch /etc/x' 'mkdir /x' 'rm /etc/passwd' 'ln -s a /l' \
                  'chmod 700 /etc' 'mv /etc/passwd /p'; do $c 2>/dev/null && echo $c; done; \
                  grep ' / / ' /proc/self/mountinfo | cut -d' ' -f6 | cut -d, -f1; touch /made/x; pwd";
    let container = Container::sh(script)
        .with("/root/readonly", json!(true))
        .with("/process/cwd", json!("/made/cwd"))
        .mount(json!({"destination": "/made", "type": "tmpfs"}));
    assert_eq!(output(bed, &container), "ro\n/made/cwd\n");
}

#[test]
fn masked_folder_is_empty_and_unwritable_even_for_root() {
    let bed = bed_or_skip!();
    let script = "ls -A /masked/folder | wc -l; mkdir /masked/folder/d 2>&1; \
                  cat /masked/folder/inside 2>&1; rmdir /masked/folder 2>/dev/null || echo stays; \
                  grep ' /masked/folder ' /proc/self/mountinfo | cut -d' ' -f6 | cut -d, -f1";
    let container = Container::sh(script)
        .with("/linux/maskedPaths", json!(["/masked/folder", "/missing/path"]));
    assert_eq!(
        output(bed, &container),
        "0\nmkdir: can't create directory '/masked/folder/d': Read-only file system\n\
         cat: can't open '/masked/folder/inside': No such file or directory\nstays\nro\n"
    );
}

#[test]
fn masked_file_is_empty_and_takes_what_is_written_nowhere() {
    let bed = bed_or_skip!();
    let script = "wc -c < /masked/file; echo new > /masked/file; cat /masked/file; \
                  cp /masked/file /tmp/x 2>/dev/null; stat -c %F /masked/file";
    let container = Container::sh(script).with("/linux/maskedPaths", json!(["/masked/file"]));
    assert_eq!(output(bed, &container), "0\ncharacter special file\n");
}

#[test]
fn many_folders_can_be_masked_and_each_is_hidden() {
    let bed = bed_or_skip!();
    let container = Container::sh(
        "for d in /masked/folder /var/data /tmp /bin/../etc /proc/fs; do ls -A $d; done",
    )
    .with("/linux/maskedPaths", json!(["/masked/folder", "/var/data", "/tmp", "/etc", "/proc/fs"]));
    assert_eq!(output(bed, &container), "");
}

#[test]
fn masked_path_through_a_link_of_the_image_hides_inside_of_the_root() {
    let bed = bed_or_skip!();
    // /etc leads to the image's root there.
    let container = Container::sh("cat /masked/file; ls /masked/folder")
        .image(HOSTILE_IMAGE)
        .with("/mounts", json!([]))
        .with("/linux/readonlyPaths", json!([]))
        .with("/linux/maskedPaths", json!(["/etc/masked/file", "/etc/etc/masked/folder"]));
    assert_eq!(output(bed, &container), "");
}

#[test]
fn read_only_path_reaches_the_mounts_below_it() {
    let bed = bed_or_skip!();
    let script = "touch /masked/x 2>&1; touch /masked/folder/x 2>&1; touch /masked/other/x 2>&1";
    let tmpfs = |destination: &str| json!({"destination": destination, "type": "tmpfs"});
    let container = Container::sh(&format!("{script}; :"))
        .mount(tmpfs("/masked/folder"))
        .mount(tmpfs("/masked/other"))
        .with("/linux/readonlyPaths", json!(["/masked"]));
    let expected: String = ["/masked/x", "/masked/folder/x", "/masked/other/x"]
        .map(|file| format!("touch: {file}: Read-only file system\n"))
        .concat();
    assert_eq!(output(bed, &container), expected);
}

#[test]
fn read_only_file_can_be_read() {
    let bed = bed_or_skip!();
    let script = "cat /masked/file; (echo x >> /masked/file) 2>/dev/null || echo refused; \
                  rm /masked/file 2>/dev/null || echo stays; echo y > /masked/free && cat /masked/free";
    let container =
        Container::sh(script).with("/linux/readonlyPaths", json!(["/masked/file", "/missing"]));
    assert_eq!(output(bed, &container), "secret\nrefused\nstays\ny\n");
}

#[test]
fn root_has_the_propagation_of_the_spec() {
    let bed = bed_or_skip!();
    // Field 7 and after, up to the dash: proc(5), mountinfo.
    let script = "grep ' / / ' /proc/self/mountinfo | cut -d' ' -f7 | cut -d: -f1; \
                  grep ' /dev/shm ' /proc/self/mountinfo | cut -d' ' -f7 | cut -d: -f1";
    let with = |value: Value| Container::sh(script).with("/linux/rootfsPropagation", value);
    for (value, expected) in [
        (json!(null), "-\n-\n"),
        (json!("private"), "-\n-\n"),
        (json!("rprivate"), "-\n-\n"),
        (json!("shared"), "shared\n-\n"),
        (json!("rshared"), "shared\nshared\n"),
        (json!("unbindable"), "unbindable\n-\n"),
        // Nothing is above the container's root that a mount could come from.
        (json!("slave"), "-\n-\n"),
        (json!("rslave"), "-\n-\n"),
    ] {
        assert_eq!(output(bed, &with(value.clone())), expected, "{value}");
    }
    let refused = refusal(bed.run(&with(json!("public"))));
    assert!(refused.message.contains("linux.rootfsPropagation"), "{refused:?}");
}

#[test]
fn shared_root_passes_mounts_on_to_another_namespace_inside() {
    let bed = bed_or_skip!();
    let script = "unshare -m --propagation shared sh -c 'mount -t tmpfs t /var/data'; \
                  grep -c ' /var/data ' /proc/self/mounts";
    let shared = |value: &str| {
        capable(Container::sh(&format!("{script}; :")), "CAP_SYS_ADMIN")
            .with("/linux/rootfsPropagation", json!(value))
    };
    assert_eq!(output(bed, &shared("rshared")), "1\n");
    assert_eq!(output(bed, &shared("private")), "0\n");
}

#[test]
fn sys_and_cgroup_are_writable_when_they_are_not_mounted_read_only() {
    let bed = bed_or_skip!();
    let script = "was=$(cat /sys/kernel/rcu_expedited); echo $was > /sys/kernel/rcu_expedited && echo sys; \
                  mkdir /sys/fs/cgroup/own && echo cgroup; \
                  echo 0 > /sys/fs/cgroup/own/cgroup.procs && cat /proc/self/cgroup";
    let mut container = Container::sh(script);
    for mount in container.spec["mounts"].as_array_mut().unwrap() {
        mount["options"].as_array_mut().unwrap().retain(|option| option != "ro");
    }
    assert_eq!(output(bed, &container), "sys\ncgroup\n0::/own\n");
    let refused = Container::sh(
        "(echo 1 > /sys/kernel/rcu_expedited) 2>/dev/null || echo sys; \
                                 mkdir /sys/fs/cgroup/own 2>/dev/null || echo cgroup",
    );
    assert_eq!(output(bed, &refused), "sys\ncgroup\n");
}

#[test]
fn privileged_container_can_mount() {
    let bed = bed_or_skip!();
    let script = "mount -t tmpfs t /var/data && touch /var/data/x && umount /var/data && ls /var/data; \
                  mount -o bind /masked /var/data && cat /var/data/file";
    assert_eq!(output(bed, &capable(Container::sh(script), "CAP_SYS_ADMIN")), "secret\n");
    let without = Container::sh("mount -t tmpfs t /var/data 2>/dev/null || echo refused");
    assert_eq!(output(bed, &without), "refused\n");
}

#[test]
fn root_whose_etc_is_a_link_to_the_root_takes_files_inside() {
    let bed = bed_or_skip!();
    let container =
        Container::sh("cat /hosts; ls -l /etc | wc -l; test -e /etc/hosts && echo both")
            .image(HOSTILE_IMAGE)
            .with("/linux/maskedPaths", json!([]))
            .with(
                "/mounts",
                json!([{
                    "destination": "/etc/hosts", "source": "/sys/devices/system/cpu/online",
                    "options": ["bind", "ro"],
                }]),
            );
    assert_eq!(output(bed, &container), "0\n1\nboth\n");
    assert!(!bed.block_on(bed.list()).unwrap().contains(&container.id));
}

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
fn nothing_of_the_guest_is_mounted_inside() {
    let bed = bed_or_skip!();
    let said = output(
        bed,
        &Container::sh("cut -d' ' -f2 /proc/mounts | grep -E '^/(run|husk|init)'; ls /"),
    );
    assert_eq!(said, "bin\ndev\netc\nmasked\nproc\nsys\ntmp\nvar\n");
}

#[test]
fn device_that_is_not_there_is_named() {
    let bed = bed_or_skip!();
    let refused = refusal(bed.run(&Container::sh("true").image("absent")));
    assert_eq!(refused.kind, ErrorKind::NotFound);
    assert!(refused.message.contains("absent"), "{refused:?}");
}
