//! config.md, "Mounts": every option of the standard's list, as the container sees it.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, HOSTILE_IMAGE};
use serde_json::{Value, json};

use crate::{bed_or_skip, output, refusal};

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// The options that the kernel shows for a mount, and those of its file system.
fn shown(bed: &Bed, mount: &Value) -> (String, String) {
    let destination = mount["destination"].as_str().unwrap();
    let script = format!("grep ' {destination} ' /proc/self/mountinfo | tail -n 1");
    let line = output(bed, &Container::sh(&script).mount(mount.clone()));
    let (own, file_system) = line.trim().split_once(" - ").unwrap();
    let own = own.split(' ').nth(5).unwrap().to_owned();
    (own, file_system.split(' ').nth(2).unwrap().to_owned())
}

#[test]
fn attributes_of_a_mount_are_those_of_its_options() {
    let bed = bed_or_skip!();
    for (options, expected) in [
        (&["defaults"][..], "rw,relatime"),
        (&["ro"], "ro,relatime"),
        (&["ro", "rw"], "rw,relatime"),
        (&["nosuid", "nodev", "noexec"], "rw,nosuid,nodev,noexec,relatime"),
        (&["nosuid", "suid", "nodev", "dev", "noexec", "exec"], "rw,relatime"),
        (&["noatime"], "rw,noatime"),
        (&["strictatime"], "rw"),
        (&["noatime", "relatime"], "rw,relatime"),
        (&["strictatime", "nostrictatime"], "rw,relatime"),
        (&["norelatime"], "rw,relatime"),
        (&["nodiratime"], "rw,nodiratime,relatime"),
        (&["nodiratime", "diratime"], "rw,relatime"),
        (&["nosymfollow"], "rw,relatime,nosymfollow"),
        (&["nosymfollow", "symfollow"], "rw,relatime"),
    ] {
        assert_eq!(shown(bed, &tmpfs("/data", options)).0, expected, "{options:?}");
    }
}

#[test]
fn flags_of_the_superblock_reach_a_new_file_system() {
    let bed = bed_or_skip!();
    let flags = |options: &[&str]| -> Vec<String> {
        let (_, shown) = shown(bed, &tmpfs("/data", options));
        let known = ["sync", "dirsync", "lazytime", "mand"];
        shown.split(',').filter(|flag| known.contains(flag)).map(str::to_owned).collect()
    };
    assert_eq!(flags(&["sync", "dirsync", "lazytime"]), ["sync", "dirsync", "lazytime"]);
    assert_eq!(flags(&["mand"]), ["mand"]);
    let taken_back = ["sync", "lazytime", "mand", "async", "nolazytime", "nomand"];
    assert!(flags(&taken_back).is_empty());
    assert!(flags(&["async", "silent", "loud", "iversion", "noiversion"]).is_empty());
}

#[test]
fn flags_of_the_superblock_are_refused_on_a_bind_mount() {
    let bed = bed_or_skip!();
    for option in ["sync", "iversion", "tmpcopyup", "size=1k"] {
        let mount = bind("/tmp", "/data", &["bind", option]);
        let refused = refusal(bed.run(&Container::sh("true").mount(mount)));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        let name = option.split('=').next().unwrap();
        assert!(refused.message.contains(&format!("mounts[/data]: option {name}")), "{refused:?}");
    }
}

#[test]
fn attributes_have_their_effect() {
    let bed = bed_or_skip!();
    let script = "cp /bin/busybox /data/echo; /data/echo x 2>/dev/null || echo noexec; \
                  ln -s /masked/file /data/link; cat /data/link 2>&1 | cut -d: -f3";
    let container = Container::sh(script).mount(tmpfs("/data", &["noexec", "nosymfollow"]));
    assert_eq!(output(bed, &container), "noexec\n Too many levels of symbolic links\n");
    let allowed = Container::sh(script).mount(tmpfs("/data", &["exec", "symfollow"]));
    assert_eq!(output(bed, &allowed), "x\nsecret\n");
}

#[test]
fn bind_mount_takes_restrictions_of_its_source_off_when_it_says_so() {
    let bed = bed_or_skip!();
    // The guest's /tmp has all three.
    let own = |options: &[&str]| shown(bed, &bind("/tmp", "/data", options)).0;
    assert_eq!(own(&["bind"]), "rw,nosuid,nodev,noexec,relatime");
    assert_eq!(own(&["bind", "exec", "dev", "suid"]), "rw,relatime");
    assert_eq!(own(&["bind", "ro", "noatime"]), "ro,nosuid,nodev,noexec,noatime");
}

#[test]
fn recursive_attributes_reach_every_mount_below() {
    let bed = bed_or_skip!();
    // The guest has its cgroups below /sys.
    let attributes = |options: &[&str]| -> Vec<String> {
        let script = "grep ' /guest' /proc/self/mountinfo | cut -d' ' -f6";
        let container = Container::sh(script).mount(bind("/sys", "/guest", options));
        output(bed, &container).lines().map(str::to_owned).collect()
    };
    let plain = "nosuid,nodev,noexec,relatime";
    assert_eq!(attributes(&["rbind"]), [format!("rw,{plain}"), format!("rw,{plain}")]);
    assert_eq!(attributes(&["rbind", "ro"]), [format!("ro,{plain}"), format!("rw,{plain}")]);
    assert_eq!(attributes(&["rbind", "rro"]), [format!("ro,{plain}"), format!("ro,{plain}")]);
    assert_eq!(
        attributes(&["rbind", "rro", "rrw"]),
        [format!("rw,{plain}"), format!("rw,{plain}")]
    );
    assert_eq!(attributes(&["rbind", "rsuid", "rdev", "rexec"]), ["rw,relatime", "rw,relatime"]);
    let noatime = "rw,nosuid,nodev,noexec,noatime";
    assert_eq!(attributes(&["rbind", "rnoatime"]), [noatime, noatime]);
    let strict = "rw,nosuid,nodev,noexec";
    assert_eq!(attributes(&["rbind", "rstrictatime"]), [strict, strict]);
    let all = "rw,nosuid,nodev,noexec,nodiratime,relatime,nosymfollow";
    assert_eq!(attributes(&["rbind", "rnodiratime", "rnosymfollow", "rrelatime"]), [all, all]);
}

#[test]
fn plain_bind_leaves_the_mounts_below_behind() {
    let bed = bed_or_skip!();
    let look = |option: &str| {
        let script = "ls /guest/fs/cgroup | grep -c cgroup.procs; :";
        output(bed, &Container::sh(script).mount(bind("/sys", "/guest", &[option])))
    };
    assert_eq!(look("bind"), "0\n");
    assert_eq!(look("rbind"), "1\n");
}

#[test]
fn bind_of_a_file_is_that_file_and_makes_its_mount_point() {
    let bed = bed_or_skip!();
    let source = "/sys/devices/system/cpu/online";
    let container = Container::sh(
        "cat /made/for/it; (echo x > /made/for/it) 2>/dev/null || echo refused; cat /etc/passwd",
    )
    .mount(bind(source, "/made/for/it", &["bind", "ro"]))
    .mount(bind(source, "/etc/passwd", &["bind", "ro"]));
    assert_eq!(output(bed, &container), "0\nrefused\n0\n");
}

#[test]
fn bind_without_a_usable_source_is_refused() {
    let bed = bed_or_skip!();
    for (source, words) in [
        (json!("/no/such"), "open /no/such"),
        (json!("relative/path"), "is not absolute"),
        (json!("/a/../b"), "has a .. in it"),
        (json!(null), "needs a source"),
    ] {
        let mount = json!({"destination": "/data", "source": source, "options": ["rbind"]});
        let container = Container::sh("true").mount(mount);
        let refused = refusal(bed.run(&container));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains(words), "{refused:?}");
        assert!(!bed.block_on(bed.list()).unwrap().contains(&container.id));
    }
}

#[test]
fn file_systems_of_the_kernel_are_read_only_when_they_say_so() {
    let bed = bed_or_skip!();
    let script = "for m in /proc /dev/mqueue /sys /sys/fs/cgroup /data; do \
                  grep \" $m \" /proc/self/mountinfo | tail -n 1 | cut -d' ' -f6 | cut -d, -f1; done; \
                  (echo x > /proc/self/comm) 2>/dev/null || echo proc; \
                  touch /dev/mqueue/q 2>/dev/null || echo mqueue; \
                  mkdir /sys/fs/cgroup/x 2>/dev/null || echo cgroup; touch /data/x 2>/dev/null || echo data";
    let mut container = Container::sh(script)
        .mount(tmpfs("/data", &["ro"]))
        .with("/linux/readonlyPaths", json!([]));
    for mount in container.spec["mounts"].as_array_mut().unwrap() {
        if ["/proc", "/dev/mqueue"].iter().any(|place| mount["destination"] == *place) {
            mount["options"].as_array_mut().unwrap().push(json!("ro"));
        }
    }
    assert_eq!(output(bed, &container), "ro\nro\nro\nro\nro\nproc\nmqueue\ncgroup\ndata\n");
}

#[test]
fn mounts_lie_over_each_other_in_the_order_of_the_spec() {
    let bed = bed_or_skip!();
    let script = "stat -c %a /data /data/sub /data/sub/deep; grep -c ' /data' /proc/self/mountinfo; ls /masked";
    let container = Container::sh(script)
        .mount(tmpfs("/data/sub", &["mode=711"]))
        .mount(tmpfs("/data", &["mode=700"]))
        .mount(tmpfs("/data/sub", &["mode=750"]))
        .mount(tmpfs("/data/sub/deep", &["mode=770"]))
        .mount(tmpfs("/masked", &[]));
    assert_eq!(output(bed, &container), "700\n750\n770\n4\n");
}

#[test]
fn read_only_tmpfs_has_the_mounts_that_come_after_it() {
    let bed = bed_or_skip!();
    let script = "touch /data/x 2>&1; touch /data/sub/x && ls /data/sub";
    let container =
        Container::sh(script).mount(tmpfs("/data", &["ro"])).mount(tmpfs("/data/sub", &[]));
    assert_eq!(output(bed, &container), "touch: /data/x: Read-only file system\nx\n");
}

#[test]
fn tmpfs_begins_with_what_it_lies_over_when_it_says_so() {
    let bed = bed_or_skip!();
    let script = "find /masked | sort; cat /masked/folder/inside; echo new > /masked/file; cat /masked/file; \
                  stat -c %a /masked; grep ' /masked ' /proc/self/mounts | cut -d' ' -f3";
    let container = |options: &[&str]| Container::sh(script).mount(tmpfs("/masked", options));
    assert_eq!(
        output(bed, &container(&["tmpcopyup"])),
        "/masked\n/masked/file\n/masked/folder\n/masked/folder/inside\nsecret\nnew\n755\ntmpfs\n"
    );
    let read_only = Container::sh("cat /masked/file; touch /masked/x 2>&1; :")
        .mount(tmpfs("/masked", &["tmpcopyup", "ro"]));
    assert_eq!(output(bed, &read_only), "secret\ntouch: /masked/x: Read-only file system\n");
    let missing = Container::sh("ls -A /not/there; touch /not/there/x")
        .mount(tmpfs("/not/there", &["tmpcopyup"]));
    assert_eq!(output(bed, &missing), "");
}

#[test]
fn copied_tree_keeps_owners_modes_and_links() {
    let bed = bed_or_skip!();
    let script = "stat -c '%n %F' /bin/cat /bin/sh; test -x /bin/busybox && stat -c %a /tmp/../bin/busybox; readlink /bin/cat";
    let plain = output(bed, &Container::sh(script));
    let copied = output(bed, &Container::sh(script).mount(tmpfs("/bin", &["tmpcopyup"])));
    assert_eq!(copied, plain);
}

#[test]
fn copy_that_does_not_fit_is_refused_and_leaves_nothing() {
    let bed = bed_or_skip!();
    let container = Container::sh("true").mount(tmpfs("/bin", &["tmpcopyup", "size=64k"]));
    let refused = refusal(bed.run(&container));
    assert_eq!(refused.kind, ErrorKind::Exhausted);
    assert!(refused.message.contains("copy up /bin"), "{refused:?}");
    assert!(!bed.block_on(bed.list()).unwrap().contains(&container.id));
}

#[test]
fn remount_changes_what_it_names_and_nothing_else() {
    let bed = bed_or_skip!();
    let remounted = |options: &[&str]| {
        let script = "grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6; ls /data";
        let container = Container::sh(script)
            .mount(tmpfs("/data", &["nosuid", "nodev"]))
            .mount(tmpfs("/data/sub", &[]))
            .mount(json!({"destination": "/data", "source": "none", "options": options}));
        output(bed, &container)
    };
    assert_eq!(remounted(&["remount", "bind", "ro"]), "ro,nosuid,nodev,relatime\nsub\n");
    assert_eq!(remounted(&["remount", "suid", "noatime"]), "rw,nodev,noatime\nsub\n");
}

#[test]
fn remount_of_what_is_no_mount_or_with_data_is_refused() {
    let bed = bed_or_skip!();
    for (destination, options, words) in [
        ("/masked", json!(["remount", "ro"]), "no mount point"),
        ("/not/there", json!(["remount", "ro"]), "find mount point"),
        ("/dev/shm", json!(["remount", "size=1m"]), "option size with remount"),
        ("/dev/shm", json!(["remount", "sync"]), "option sync with remount"),
    ] {
        let mount = json!({"destination": destination, "options": options});
        let refused = refusal(bed.run(&Container::sh("true").mount(mount)));
        assert!(refused.message.contains(words), "{refused:?}");
    }
}

fn mapped(mount: Value) -> Value {
    let range = json!([{"containerID": 0, "hostID": 1000, "size": 100}]);
    let mut mount = mount;
    mount["uidMappings"] = range.clone();
    mount["gidMappings"] = range;
    mount
}

/// The disk of the image, whose files are root's: a file system that can have its ids mapped, which
/// a tmpfs of this kernel cannot.
fn image_disk(options: &[&str]) -> Value {
    json!({"destination": "/image", "type": "erofs", "source": "/dev/vda", "options": options})
}

#[test]
fn mapped_file_system_shows_its_files_under_other_owners() {
    let bed = bed_or_skip!();
    let script = "stat -c %u:%g /image /image/masked/file; cat /image/masked/file";
    let plain = Container::sh(script).mount(image_disk(&["ro"]));
    assert_eq!(output(bed, &plain), "0:0\n0:0\nsecret\n");
    for options in [&["ro", "idmap"][..], &["ro", "ridmap"], &["ro"]] {
        let container = Container::sh(script).mount(mapped(image_disk(options)));
        assert_eq!(output(bed, &container), "1000:1000\n1000:1000\nsecret\n", "{options:?}");
    }
}

#[test]
fn mapped_bind_mount_leaves_its_source_as_it_is() {
    let bed = bed_or_skip!();
    let script = "stat -c %u:%g /image/masked/file /data/file; touch /data/x 2>&1; :";
    // Where the guest has the root of a container that is being set up.
    let source = "/run/husk/root/image/masked";
    for options in [&["bind", "idmap"], &["rbind", "ridmap"]] {
        let container = Container::sh(script)
            .mount(image_disk(&["ro"]))
            .mount(mapped(bind(source, "/data", options)));
        let expected = "0:0\n1000:1000\ntouch: /data/x: Read-only file system\n";
        assert_eq!(output(bed, &container), expected);
    }
}

#[test]
fn owner_that_no_range_has_is_shown_as_nobody() {
    let bed = bed_or_skip!();
    let mut mount = mapped(image_disk(&["ro", "idmap"]));
    mount["uidMappings"][0]["containerID"] = json!(1);
    let said = output(bed, &Container::sh("stat -c %u:%g /image/masked/file").mount(mount));
    assert_eq!(said, "65534:1000\n");
}

#[test]
fn mapping_that_cannot_be_is_refused_by_its_reason() {
    let bed = bed_or_skip!();
    for source in ["/proc/sys", "/run/husk/files"] {
        let mount = mapped(bind(source, "/data", &["bind", "idmap"]));
        let refused = refusal(bed.run(&Container::sh("true").mount(mount)));
        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(refused.message.contains("mount /data: map ids"), "{refused:?}");
    }
    let unmapped = bind("/tmp", "/data", &["bind", "idmap"]);
    let refused = refusal(bed.run(&Container::sh("true").mount(unmapped)));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("needs uidMappings"), "{refused:?}");
    let mut half = mapped(bind("/tmp", "/data", &["bind", "idmap"]));
    half["gidMappings"] = json!([]);
    let refused = refusal(bed.run(&Container::sh("true").mount(half)));
    assert!(refused.message.contains("gidMappings"), "{refused:?}");
}

#[test]
fn mount_has_the_propagation_that_it_says() {
    let bed = bed_or_skip!();
    let script = "grep ' /data' /proc/self/mountinfo | cut -d' ' -f7 | cut -d: -f1";
    // The guest has a mount below /sys: its line is the second one.
    for (option, expected) in [
        ("shared", "shared\n-\n"),
        ("rshared", "shared\nshared\n"),
        ("unbindable", "unbindable\n-\n"),
        ("runbindable", "unbindable\nunbindable\n"),
        ("private", "-\n-\n"),
        ("rprivate", "-\n-\n"),
        // Of a mount that is shared with nobody.
        ("slave", "-\n-\n"),
        ("rslave", "-\n-\n"),
    ] {
        let container = Container::sh(script).mount(bind("/sys", "/data", &["rbind", option]));
        assert_eq!(output(bed, &container), expected, "{option}");
    }
}

#[test]
fn destination_through_links_is_found_inside_of_the_root() {
    let bed = bed_or_skip!();
    // /up leads to ../../../run and so on, which the image lacks; /etc to its root.
    let container = Container::sh("cat /run/husk/files/x; stat -c %a /data; ls /run/husk")
        .image(HOSTILE_IMAGE)
        .with("/linux/maskedPaths", json!([]))
        .with(
            "/mounts",
            json!([
                bind("/sys/devices/system/cpu/online", "/up/husk/files/x", &["bind"]),
                tmpfs("/etc/data", &["mode=711"]),
            ]),
        );
    assert_eq!(output(bed, &container), "0\n711\nfiles\n");
    let guest = Container::sh("ls /guest").mount(bind("/run/husk/files", "/guest", &["bind"]));
    assert!(!output(bed, &guest).lines().any(|name| name == "x"));
}

#[test]
fn file_system_that_the_kernel_lacks_names_its_option() {
    let bed = bed_or_skip!();
    for (fstype, option) in [
        ("nfs", "CONFIG_NFS_FS"),
        ("nfs4", "CONFIG_NFS_V4"),
        ("9p", "CONFIG_9P_FS"),
        ("btrfs", "CONFIG_BTRFS_FS"),
        ("squashfs", "CONFIG_SQUASHFS"),
        ("debugfs", "CONFIG_DEBUG_FS"),
    ] {
        let mount = json!({"destination": "/data", "type": fstype, "source": "none"});
        let refused = refusal(bed.run(&Container::sh("true").mount(mount)));
        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(refused.message.contains(&format!("({option})")), "{refused:?}");
    }
}

#[test]
fn option_that_the_file_system_does_not_have_is_named() {
    let bed = bed_or_skip!();
    for option in ["nonsense", "size=many", "subset=pid"] {
        let refused = refusal(bed.run(&Container::sh("true").mount(tmpfs("/data", &[option]))));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains(&format!("mount /data: option {option}")), "{refused:?}");
    }
    let counted = json!({"destination": "/data", "type": "mqueue", "options": ["iversion"]});
    let refused = refusal(bed.run(&Container::sh("true").mount(counted)));
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    assert!(refused.message.contains("mounts[/data].options: iversion"), "{refused:?}");
}

#[test]
fn mount_that_fails_late_leaves_nothing_of_those_before() {
    let bed = bed_or_skip!();
    let container = Container::sh("true")
        .mount(tmpfs("/data", &[]))
        .mount(bind("/sys", "/guest", &["rbind", "rshared"]))
        .mount(bind("/no/such", "/data/x", &["bind"]));
    refusal(bed.run(&container));
    assert!(!bed.block_on(bed.list()).unwrap().contains(&container.id));
    let script = format!("test -e /guest/husk/{} || echo gone", container.id);
    let guest = Container::sh(&script).mount(bind("/sys/fs/cgroup", "/guest", &["bind", "ro"]));
    assert_eq!(output(bed, &guest), "gone\n");
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
