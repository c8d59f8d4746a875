//! config-linux.md, "Devices" and "Default Devices", and the guest's own devices.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, HOSTILE_IMAGE};
use serde_json::{Value, json};

use crate::{bed_or_skip, output, refusal};

fn with_devices(script: &str, devices: Value) -> Container {
    Container::sh(script).with("/linux/devices", devices)
}

fn bind_of_dev(script: &str) -> Container {
    let container = Container::sh(script);
    let mut mounts = container.spec["mounts"].clone();
    mounts
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    container
        .with("/mounts", mounts)
        .mount(json!({"destination": "/dev", "source": "/dev", "options": ["rbind"]}))
}

#[test]
fn default_devices_are_character_devices_of_everybody() {
    let bed = bed_or_skip!();
    let script = "cd /dev; stat -c '%n %a %u:%g %t:%T %F' null zero full random urandom tty";
    let said = output(bed, &Container::sh(script));
    let line = |name, number| format!("{name} 666 0:0 {number} character special file\n");
    let expected: String = [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
    ]
    .iter()
    .map(|(name, number)| line(name, number))
    .collect();
    assert_eq!(said, expected);
}

#[test]
fn links_of_dev_lead_to_the_process() {
    let bed = bed_or_skip!();
    let script = "cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done; \
                  ls /dev/fd/ > /dev/null && echo listed; cat < /dev/stdin";
    let ended = bed.run_with(&Container::sh(script), b"input\n").unwrap();
    assert_eq!(
        ended.stdout,
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\nlisted\ninput\n"
    );
}

#[test]
fn console_is_there_with_a_terminal_and_only_then() {
    let bed = bed_or_skip!();
    let with = output(bed, &Container::sh("stat -c %F /dev/console; tty").terminal());
    assert_eq!(with, "character special file\r\n/dev/pts/0\r\n");
    let without = output(bed, &Container::sh("test -e /dev/console || echo none"));
    assert_eq!(without, "none\n");
}

#[test]
fn device_named_like_a_default_one_has_the_mode_and_owner_of_the_spec() {
    let bed = bed_or_skip!();
    let devices = json!([
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5,
         "gid": 6},
        {"path": "/dev/zero", "type": "c", "major": 1, "minor": 3},
    ]);
    let script = "stat -c '%n %a %u:%g %t:%T' /dev/null /dev/zero; head -c 4 /dev/zero | wc -c";
    let said = output(bed, &with_devices(script, devices));
    assert_eq!(said, "/dev/null 600 5:6 1:3\n/dev/zero 666 0:0 1:3\n0\n");
}

#[test]
fn fifo_carries_what_is_written_to_it() {
    let bed = bed_or_skip!();
    let devices = json!([{"path": "/run/pipe", "type": "p", "fileMode": 0o620, "gid": 7}]);
    let script = "stat -c '%F %a %g' /run/pipe; (echo through > /run/pipe) & cat /run/pipe; wait";
    assert_eq!(output(bed, &with_devices(script, devices)), "fifo 620 7\nthrough\n");
}

#[test]
fn device_can_lie_outside_of_dev_in_folders_that_are_missing() {
    let bed = bed_or_skip!();
    let devices = json!([{"path": "/opt/deep/nodes/zero", "type": "u", "major": 1, "minor": 5}]);
    let script = "head -c 3 /opt/deep/nodes/zero | wc -c";
    assert_eq!(output(bed, &with_devices(script, devices)), "3\n");
}

#[test]
fn device_path_that_leaves_the_root_is_refused() {
    let bed = bed_or_skip!();
    for path in ["/dev/../../run/node", "dev/node", "/", "/dev/.."] {
        let devices = json!([{"path": path, "type": "c", "major": 1, "minor": 3}]);
        let refused = refusal(bed.run(&with_devices("true", devices)));
        assert_eq!(refused.kind, ErrorKind::Invalid, "{path}");
        assert!(refused.message.contains("linux.devices"), "{refused:?}");
    }
}

#[test]
fn device_below_a_link_of_the_image_stays_in_the_root() {
    let bed = bed_or_skip!();
    // The link leads to /run of the guest for who follows it carelessly.
    let devices =
        json!([{"path": "/up/husk/node", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}]);
    let container = with_devices("stat -c '%t:%T' /run/husk/node", devices)
        .image(HOSTILE_IMAGE)
        .with("/mounts", json!([]))
        .with("/linux/maskedPaths", json!([]));
    assert_eq!(output(bed, &container), "1:3\n");
    let guest = Container::sh("ls /guest").mount(json!({
        "destination": "/guest", "source": "/run/husk", "options": ["bind", "ro"],
    }));
    assert!(!output(bed, &guest).contains("node"));
}

#[test]
fn folder_in_the_place_of_a_device_is_refused_and_nothing_is_left() {
    let bed = bed_or_skip!();
    let devices = json!([{"path": "/masked/folder", "type": "c", "major": 1, "minor": 3}]);
    let container = with_devices("true", devices);
    let refused = refusal(bed.run(&container));
    assert!(refused.message.contains("make device /masked/folder"), "{refused:?}");
    assert!(!bed.block_on(bed.list()).unwrap().contains(&container.id));
}

#[test]
fn read_only_dev_has_its_devices_all_the_same() {
    let bed = bed_or_skip!();
    let mut container = with_devices(
        "stat -c %t:%T /dev/extra; touch /dev/x 2>&1; echo kept > /dev/null; touch /dev/shm/x",
        json!([{"path": "/dev/extra", "type": "c", "major": 1, "minor": 7}]),
    );
    container.spec["mounts"][1]["options"].as_array_mut().unwrap().push(json!("ro"));
    assert_eq!(output(bed, &container), "1:7\ntouch: /dev/x: Read-only file system\n");
}

#[test]
fn device_on_a_mount_without_devices_cannot_be_opened() {
    let bed = bed_or_skip!();
    let devices = json!([{"path": "/nodes/zero", "type": "c", "major": 1, "minor": 5}]);
    let container =
        with_devices("head -c 1 /nodes/zero 2>&1; test -c /nodes/zero && echo there", devices)
            .mount(json!({"destination": "/nodes", "type": "tmpfs", "options": ["nodev"]}));
    assert_eq!(output(bed, &container), "head: /nodes/zero: Permission denied\nthere\n");
}

#[test]
fn bind_of_dev_brings_every_device_of_the_guest() {
    let bed = bed_or_skip!();
    let script = "for d in vda vdb null zero kmsg; do test -e /dev/$d && echo $d; done; \
                  head -c 1024 /dev/vda | wc -c; test -c /dev/pts/ptmx && echo ptmx";
    let container = bind_of_dev(script).with("/linux/resources", every_device());
    assert_eq!(output(bed, &container), "vda\nvdb\nnull\nzero\nkmsg\n1024\nptmx\n");
}

#[test]
fn device_of_the_guest_can_be_listed_alone() {
    let bed = bed_or_skip!();
    let number = guest_device(bed, "vda");
    let (major, minor) = number.split_once(':').unwrap();
    let number = |text: &str| u32::from_str_radix(text, 16).unwrap();
    let devices = json!([{
        "path": "/dev/disk", "type": "b", "major": number(major), "minor": number(minor),
        "fileMode": 0o400,
    }]);
    let said = output(
        bed,
        &with_devices("head -c 512 /dev/disk | wc -c; stat -c '%a %F' /dev/disk", devices)
            .with("/linux/resources", every_device()),
    );
    assert_eq!(said, "512\n400 block special file\n");
}

/// What opens devices that no container has by default.
fn every_device() -> Value {
    json!({"devices": [{"allow": true, "access": "rwm"}]})
}

fn guest_device(bed: &Bed, name: &str) -> String {
    output(bed, &bind_of_dev(&format!("stat -c %t:%T /dev/{name}"))).trim().to_owned()
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
