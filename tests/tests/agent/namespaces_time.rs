//! Time namespaces: `linux.timeOffsets`.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::Container;
use serde_json::json;

use crate::{
    bed_or_skip,
    namespaces::{IDLE, beside},
    output, refusal,
};

const DAY: i64 = 86_400;
const BOOT_TIME: &str = "probe clock boottime";

fn shifted(script: &str) -> Container {
    let offsets = json!({"boottime": {"secs": 10 * DAY}, "monotonic": {"secs": 20 * DAY}});
    Container::sh(script).namespace("time").with("/linux/timeOffsets", offsets)
}

fn days(said: &str) -> Vec<i64> {
    let seconds = |line: &str| line.split(['.', ' ']).next().unwrap().parse::<i64>().unwrap();
    said.lines().map(|line| seconds(line) / DAY).collect()
}

#[test]
fn clocks_of_the_first_process_are_shifted() {
    let bed = bed_or_skip!();
    let script = format!("{BOOT_TIME}; probe clock monotonic; cat /proc/uptime");
    assert_eq!(days(&output(bed, &shifted(&script))), [10, 20, 10]);
    let plain = Container::sh(&script);
    assert_eq!(days(&output(bed, &plain)), [0, 0, 0]);
}

#[test]
fn first_process_and_execs_are_in_the_time_namespace_themselves() {
    let bed = bed_or_skip!();
    let links = "readlink /proc/self/ns/time; readlink /proc/self/ns/time_for_children";
    let said = output(bed, &shifted(links));
    let links: Vec<&str> = said.lines().map(|link| link.rsplit(':').next().unwrap()).collect();
    assert_eq!(links.first(), links.last());
    let idle = shifted(IDLE);
    bed.block_on(async {
        let _output = bed.up(&idle).await.unwrap();
        assert_eq!(days(&bed.said_by_exec(&idle, BOOT_TIME).await), [10]);
        bed.down(&idle).await;
    });
}

#[test]
fn joined_time_namespace_has_its_offsets() {
    let bed = bed_or_skip!();
    let idle = shifted(IDLE);
    let joined = Container::sh(BOOT_TIME).joining("time", &idle);
    assert_eq!(days(&beside(bed, &idle, &joined)), [10]);
}

#[test]
fn time_namespace_without_offsets_has_the_guests_clocks() {
    let bed = bed_or_skip!();
    assert_eq!(days(&output(bed, &Container::sh(BOOT_TIME).namespace("time"))), [0]);
}

#[test]
fn offsets_work_in_a_user_namespace() {
    let bed = bed_or_skip!();
    assert_eq!(days(&output(bed, &shifted(BOOT_TIME).user_namespace())), [10]);
}

#[test]
fn offsets_that_cannot_be_are_refused() {
    let bed = bed_or_skip!();
    for (offsets, part) in [
        (json!({"boottime": {"secs": -10 * DAY}}), "before its start"),
        (json!({"boottime": {"secs": i64::MAX}}), "out of range"),
        (json!({"realtime": {"secs": 1}}), "neither monotonic nor boottime"),
    ] {
        let container = Container::sh("true").namespace("time").with("/linux/timeOffsets", offsets);
        let refused = refusal(bed.run(&container));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        let words = refused.message;
        assert!(words.starts_with("linux.timeOffsets") && words.contains(part), "{words}");
    }
    let without =
        Container::sh("true").with("/linux/timeOffsets", json!({"boottime": {"secs": 1}}));
    let refused = refusal(bed.run(&without));
    assert!(refused.message.contains("needs a new time namespace"), "{refused:?}");
}
