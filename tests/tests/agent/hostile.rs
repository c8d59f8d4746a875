//! Images and requests that mean harm.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Container, HOSTILE_IMAGE};
use serde_json::json;

use crate::{bed_or_skip, output, refusal};

/// Without the mounts that the image's links make impossible.
fn hostile(script: &str) -> Container {
    Container::sh(script)
        .image(HOSTILE_IMAGE)
        .with("/mounts", json!([]))
        .with("/linux/maskedPaths", json!([]))
}

#[test]
fn folders_that_are_links_to_the_root_are_refused_as_mount_points() {
    let bed = bed_or_skip!();
    let mount = |fstype: &str, destination: &str| {
        hostile("true").mount(json!({"destination": destination, "type": fstype}))
    };
    for (container, words) in [
        (mount("tmpfs", "/dev"), "leads to the root"),
        (mount("proc", "/proc"), "symbolic link"),
        (mount("sysfs", "/etc"), "symbolic link"),
    ] {
        let refused = refusal(bed.run(&container));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains(words), "{refused:?}");
    }
}

#[test]
fn links_out_of_the_image_stay_inside_of_it() {
    let bed = bed_or_skip!();
    let container = hostile("ls -d /run/husk/made /new; ls /run /run/husk")
        .mount(json!({"destination": "/up/husk/made", "type": "tmpfs"}))
        .mount(json!({"destination": "/etc/new", "type": "tmpfs"}));
    // /up leads to the image's own /run, which is not there and is made.
    assert_eq!(output(bed, &container), "/new\n/run/husk/made\n/run:\nhusk\n\n/run/husk:\nmade\n");
    let container = hostile("ls -d /new; ls -d /run 2>/dev/null || echo none")
        .mount(json!({"destination": "/etc/new", "type": "tmpfs"}));
    assert_eq!(output(bed, &container), "/new\nnone\n");
}

#[test]
fn device_nodes_follow_a_link_no_further_than_the_root() {
    let bed = bed_or_skip!();
    // /dev leads to the image's root: the nodes land there, and the guest's own stay as they were.
    assert_eq!(output(bed, &hostile("ls -d /null /urandom")), "/null\n/urandom\n");
    assert_eq!(output(bed, &Container::sh("ls /null 2>/dev/null || echo none")), "none\n");
}

#[test]
fn mount_onto_proc_is_refused_under_any_name() {
    let bed = bed_or_skip!();
    let tmpfs = |destination: &str| {
        Container::sh("true").mount(json!({"destination": destination, "type": "tmpfs"}))
    };
    for destination in ["/proc/sys", "/proc", "/proc/self/attr", "/dev/../proc/sys"] {
        assert_eq!(refusal(bed.run(&tmpfs(destination))).kind, ErrorKind::Invalid, "{destination}");
    }
    // Through a link that the image has.
    let container = hostile("true")
        .mount(json!({"destination": "/tmp/proc", "type": "proc"}))
        .with("/linux/readonlyPaths", json!([]));
    bed.run(&container).unwrap();
    let bound = Container::new(&["cat", "/proc/uptime"]).mount(json!({
        "destination": "/proc/uptime", "source": "/sys/devices/system/cpu/online",
        "options": ["bind", "ro"],
    }));
    assert_eq!(output(bed, &bound), "0\n");
}

#[test]
fn agent_is_out_of_reach_of_a_container() {
    let bed = bed_or_skip!();
    // The first process was the agent's program until its exec.
    let said = output(bed, &Container::sh("readlink /proc/1/exe; cat /proc/1/comm; :"));
    assert_eq!(said, "/bin/busybox\nsh\n");
}

#[test]
fn spec_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        for spec in [&b"{"[..], b"", b"[]", b"{\"ociVersion\":\"9\"}", &[0xff; 1000]] {
            let refused = bed.create_raw("nonsense", spec).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Invalid, "{refused:?}");
        }
        for id in ["", "..", "a/b", "-x", &"x".repeat(200)] {
            let refused = bed.create_raw(id, b"{}").await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Invalid, "{refused:?}");
        }
        assert!(!bed.list().await.unwrap().contains(&"nonsense".to_owned()));
    });
}

#[test]
fn field_that_is_not_done_is_refused_by_its_name() {
    let bed = bed_or_skip!();
    for (pointer, value, field) in [
        ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt, hardware"),
        ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy"),
        ("/process/commandLine", json!("dir"), "process.commandLine"),
        ("/linux/resources", json!({"network": {"classID": 1}}), "linux.resources.network.classID"),
    ] {
        let refused = refusal(bed.run(&Container::sh("true").with(pointer, value)));
        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(refused.message.contains(field), "{refused:?}");
    }
}

#[test]
fn request_beyond_the_limit_is_refused_and_the_agent_lives() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let spec = vec![b' '; 5 << 20];
        assert!(bed.create_raw("large", &spec).await.is_err());
        bed.info().await.unwrap();
    });
}
