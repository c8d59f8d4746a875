//! Which devices a container may use: the rules on its cgroup, and not the nodes that it makes.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::{Value, json};

use crate::{
    bed_or_skip,
    cgroup::{disk, with_writable_cgroups},
    output, refusal,
};

/// Makes a node and says which accesses work, a letter each.
fn try_disk((major, minor): (i64, i64)) -> String {
    format!(
        "mknod /dev/disk b {major} {minor} && echo m; {TRY}; \
         dd if=/dev/null of=/dev/disk count=0 2>/dev/null && echo w; true"
    )
}

const TRY: &str = "head -c 512 /dev/disk >/dev/null 2>&1 && echo r";

fn rules(bed: &Bed, script: &str, rules: Value) -> String {
    output(bed, &Container::sh(script).with("/linux/resources", json!({"devices": rules})))
}

#[test]
fn disk_of_the_guest_cannot_be_opened_by_default() {
    let bed = bed_or_skip!();
    let disk = disk(bed);
    assert_eq!(output(bed, &Container::sh(&try_disk(disk))), "m\n");
    // What engines write first.
    assert_eq!(rules(bed, &try_disk(disk), json!([{"allow": false, "access": "rwm"}])), "m\n");
    assert_eq!(rules(bed, &try_disk(disk), json!([])), "m\n");
    let script = format!("mknod /dev/disk b {} {}; head -c 1 /dev/disk", disk.0, disk.1);
    let ended = bed.run(&Container::sh(&script)).unwrap();
    assert!(ended.stderr.contains("Operation not permitted"), "{ended:?}");
}

#[test]
fn memory_and_log_of_the_kernel_cannot_be_opened_by_default() {
    let bed = bed_or_skip!();
    // A redirection that fails would end the script.
    let script = "mknod /dev/log c 1 11; mknod /dev/guest-console c 5 1; mknod /dev/mem c 1 1; \
                  for device in log guest-console mem; do \
                  (: < /dev/$device) 2>/dev/null && echo $device; \
                  (: > /dev/$device) 2>/dev/null && echo $device; done; true";
    assert_eq!(output(bed, &Container::sh(script)), "");
    let privileged = "mknod /dev/log c 1 11; head -c 1 /dev/log | wc -c";
    let open = json!([{"allow": true, "access": "rwm"}]);
    assert_eq!(rules(bed, privileged, open).trim(), "1");
}

#[test]
fn usual_devices_work_under_every_list() {
    let bed = bed_or_skip!();
    let script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/random | wc -c; \
                  head -c 3 /dev/urandom | wc -c; head -c 3 /dev/full | wc -c; \
                  (echo x > /dev/full) 2>/dev/null || echo full; : < /dev/ptmx; ls /dev/pts";
    let expected = "3\n3\n3\n3\nfull\nptmx\n";
    assert_eq!(output(bed, &Container::sh(script)), expected);
    let deny = json!([
        {"allow": false, "access": "rwm"},
        {"allow": false, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    ]);
    assert_eq!(rules(bed, script, deny), expected);
}

#[test]
fn terminal_works_under_the_rules() {
    let bed = bed_or_skip!();
    let container = Container::sh("tty; echo said > /dev/tty; echo loud > /dev/console").terminal();
    let ended = bed.run(&container).unwrap();
    assert_eq!((ended.code, ended.stdout.contains("said")), (0, true), "{ended:?}");
}

#[test]
fn rule_opens_what_it_names_and_no_more() {
    let bed = bed_or_skip!();
    let disk = disk(bed);
    let rule = |minor: i64, access: &str| {
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": disk.0, "minor": minor, "access": access},
        ])
    };
    assert_eq!(rules(bed, &try_disk(disk), rule(disk.1, "r")), "m\nr\n");
    assert_eq!(rules(bed, &try_disk(disk), rule(disk.1, "w")), "m\nw\n");
    assert_eq!(rules(bed, &try_disk(disk), rule(disk.1, "rw")), "m\nr\nw\n");
    assert_eq!(rules(bed, &try_disk(disk), rule(disk.1 + 1, "rwm")), "m\n");
}

#[test]
fn rule_without_numbers_is_for_all_of_them() {
    let bed = bed_or_skip!();
    let disk = disk(bed);
    for rule in [
        json!({"allow": true, "type": "b", "access": "r"}),
        json!({"allow": true, "type": "b", "major": disk.0, "access": "r"}),
        json!({"allow": true, "type": "b", "major": disk.0, "minor": -1, "access": "r"}),
        json!({"allow": true, "type": "b", "minor": disk.1, "access": "r"}),
        json!({"allow": true, "type": "a", "access": "r"}),
    ] {
        assert_eq!(rules(bed, &try_disk(disk), json!([rule])), "m\nr\n", "{rule}");
    }
    let characters = json!([{"allow": true, "type": "c", "access": "rwm"}]);
    assert_eq!(rules(bed, &try_disk(disk), characters), "m\n");
}

#[test]
fn later_rule_wins() {
    let bed = bed_or_skip!();
    let disk = disk(bed);
    let rule = |allow: bool, access: &str| json!({"allow": allow, "type": "b", "major": disk.0, "access": access});
    let closed = json!([rule(true, "rw"), rule(false, "w")]);
    assert_eq!(rules(bed, &try_disk(disk), closed), "m\nr\n");
    let opened = json!([rule(false, "rw"), rule(true, "w")]);
    assert_eq!(rules(bed, &try_disk(disk), opened), "m\nw\n");
}

#[test]
fn everything_but_one_device_can_be_open() {
    let bed = bed_or_skip!();
    let disk = disk(bed);
    let list = json!([
        {"allow": true, "access": "rwm"},
        {"allow": false, "type": "b", "major": disk.0, "minor": disk.1, "access": "w"},
    ]);
    let script = format!("{}; mknod /dev/log c 1 11; head -c 1 /dev/log | wc -c", try_disk(disk));
    assert_eq!(rules(bed, &script, list), "m\nr\n1\n");
}

#[test]
fn privileged_container_sees_all() {
    let bed = bed_or_skip!();
    let disk = disk(bed);
    let open = json!([{"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm"}]);
    assert_eq!(rules(bed, &try_disk(disk), open), "m\nr\nw\n");
}

#[test]
fn node_of_the_spec_is_not_open_without_a_rule() {
    let bed = bed_or_skip!();
    let (major, minor) = disk(bed);
    let node = json!([{"path": "/dev/disk", "type": "b", "major": major, "minor": minor}]);
    let container = Container::sh(&format!("{TRY}; true")).with("/linux/devices", node);
    assert_eq!(output(bed, &container), "");
    let rule = json!([{"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"}]);
    assert_eq!(output(bed, &container.with("/linux/resources", json!({"devices": rule}))), "r\n");
}

#[test]
fn exec_is_held_to_the_rules_too() {
    let bed = bed_or_skip!();
    let disk = disk(bed);
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let ended = bed.run_exec(&id, &process(&["sh", "-c", &try_disk(disk)])).await.unwrap();
        assert_eq!(ended.stdout, "m\n", "{ended:?}");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn cgroup_of_the_container_s_own_does_not_lift_the_rules() {
    let bed = bed_or_skip!();
    let script = "mkdir /sys/fs/cgroup/inner; echo $$ > /sys/fs/cgroup/inner/cgroup.procs; \
                  cat /proc/self/cgroup";
    let script = format!("{script}; {}", try_disk(disk(bed)));
    let container = with_writable_cgroups(Container::sh(&script));
    assert_eq!(output(bed, &container), "0::/inner\nm\n");
}

#[test]
fn rule_that_makes_no_sense_is_refused_with_its_place() {
    let bed = bed_or_skip!();
    for rule in [
        json!({"allow": true, "type": "c", "major": 1, "minor": 3}),
        json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwx"}),
        json!({"allow": true, "type": "c", "major": -7, "access": "r"}),
        json!({"allow": true, "type": "p", "access": "r"}),
    ] {
        let list = json!({"devices": [{"allow": false, "access": "rwm"}, rule]});
        let refused = refusal(bed.run(&Container::sh("true").with("/linux/resources", list)));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains("linux.resources.devices[1]"), "{refused:?}");
    }
}

#[test]
fn longest_list_is_taken_by_the_kernel() {
    let bed = bed_or_skip!();
    let disk = disk(bed);
    let mut list: Vec<Value> = (0..1023)
        .map(|i| {
            json!({"allow": i % 2 == 0, "type": "b", "major": 2000 + i, "minor": i, "access": "rw"})
        })
        .collect();
    list.push(json!({"allow": true, "type": "b", "major": disk.0, "access": "r"}));
    assert_eq!(rules(bed, &try_disk(disk), json!(list)), "m\nr\n");
    list.push(json!({"allow": true, "type": "b", "access": "r"}));
    let container = Container::sh("true").with("/linux/resources", json!({"devices": list}));
    assert_eq!(refusal(bed.run(&container)).kind, ErrorKind::Invalid);
}
