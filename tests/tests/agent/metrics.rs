//! Metrics, in Prometheus' text format.

use std::collections::{HashMap, HashSet};

use husk_tests::agent_bed::{Bed, Container};

use crate::{bed_or_skip, said};

/// A sample: its name, its labels as they stand there, and its value.
type Samples = HashMap<(String, String), f64>;

/// Reads the format, strictly: each metric has its help and type before its samples, which are
/// together, each once.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut begun = HashSet::new();
    let mut current = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split_once(' ').expect("a help has words").0.to_owned();
            assert!(begun.insert(current.clone()), "{current} begins twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current);
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, current, "{line}");
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert((name, labels), value).is_none(), "{line} is there twice");
        }
    }
    samples
}

fn sample(line: &str) -> (String, String, &str) {
    let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').expect("labels end")),
        None => (series, ""),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    assert!(!name.is_empty() && name.chars().all(plain), "{line}");
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (key, text) = label.split_once("=\"").expect("a label has a value");
        assert!(!key.is_empty() && key.chars().all(plain), "{line}");
        assert!(!text.trim_end_matches('"').contains('"'), "{line}");
    }
    (name.to_owned(), labels.to_owned(), value)
}

fn metrics(bed: &Bed) -> Samples {
    parse(&bed.block_on(bed.metrics()).unwrap())
}

fn value(samples: &Samples, name: &str, labels: &str) -> f64 {
    *samples
        .get(&(name.to_owned(), labels.to_owned()))
        .unwrap_or_else(|| panic!("no {name}{{{labels}}}"))
}

#[test]
fn metrics_of_agent_and_guest_are_well_formed() {
    let bed = bed_or_skip!();
    let before = metrics(bed);
    assert!(value(&before, "husk_agent_resident_bytes", "") > 1e6);
    assert!(value(&before, "husk_agent_open_fds", "") > 3.0);
    assert!(value(&before, "husk_guest_memory_bytes", "kind=\"MemTotal\"") > 1e8);
    assert!(before.contains_key(&("husk_guest_load".to_owned(), "minutes=\"5\"".to_owned())));
    let after = metrics(bed);
    for (name, labels) in [
        ("husk_agent_requests_total", ""),
        ("husk_guest_uptime_seconds", ""),
        ("husk_guest_cpu_seconds_total", "mode=\"system\""),
    ] {
        assert!(value(&after, name, labels) >= value(&before, name, labels), "{name}");
    }
}

#[test]
fn container_has_metrics_for_as_long_as_it_is_there() {
    let bed = bed_or_skip!();
    let container = Container::sh("sleep 1000 & echo ready; sleep 1000");
    let id = container.id.clone();
    let _output = bed.block_on(bed.up(&container)).unwrap();
    let labels = format!("container=\"{id}\"");
    bed.block_on(said(bed, &id, "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done"));
    let samples = metrics(bed);
    assert!(value(&samples, "husk_container_pids", &labels) >= 2.0);
    assert!(value(&samples, "husk_container_memory_bytes", &labels) > 0.0);
    assert!(value(&samples, "husk_container_cpu_usage_us_total", &labels) > 0.0);
    assert!(value(&samples, "husk_agent_containers", "state=\"running\"") >= 1.0);
    let interface = format!("{labels},interface=\"lo\"");
    value(&samples, "husk_container_network_received_bytes_total", &interface);
    let some = format!("{labels},share=\"some\"");
    value(&samples, "husk_container_pressure_cpu_stall_us_total", &some);
    bed.block_on(bed.pause(&id)).unwrap();
    assert!(value(&metrics(bed), "husk_agent_containers", "state=\"paused\"") >= 1.0);
    bed.block_on(bed.remove(&id)).unwrap();
    assert!(!metrics(bed).keys().any(|(_, found)| found.contains(&labels)));
}
