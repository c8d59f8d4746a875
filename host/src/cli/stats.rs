//! `stats`: what running containers use, in docker's columns.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args;
use super::failure::Failure;
use super::print_rows;
use crate::engine::Engine;
use crate::engine::store::Container;
use crate::guest::Usage;

/// Between two looks; a share of CPU time needs two.
const INTERVAL: Duration = Duration::from_secs(1);

/// A look at a container.
struct Sample {
    at: Instant,
    usage: Option<Usage>,
}

/// `husk stats`.
pub fn stats(flags: &args::Stats) -> Result<u8, Failure> {
    watch(flags).map_err(|failure| failure.during("stats"))
}

fn watch(flags: &args::Stats) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    let mut containers = select(&engine, flags)?;
    let mut before: Vec<Sample> = sample(&engine, &containers);
    loop {
        std::thread::sleep(INTERVAL);
        let now = sample(&engine, &containers);
        let rows: Vec<Value> = containers
            .iter()
            .zip(before.iter().zip(&now))
            .filter(|(_, (_, now))| {
                now.usage.is_some() || flags.all || !flags.containers.is_empty()
            })
            .map(|(container, (before, now))| row(container, before, now, flags.no_trunc))
            .collect();
        print(flags, &rows)?;
        if flags.no_stream {
            return Ok(0);
        }
        (containers, before) = match flags.containers.is_empty() {
            true => {
                let found = select(&engine, flags)?;
                let before = sample(&engine, &found);
                (found, before)
            }
            false => (containers, now),
        };
    }
}

fn select(engine: &Engine, flags: &args::Stats) -> Result<Vec<Container>, Failure> {
    if flags.containers.is_empty() {
        let mut found = engine.list()?;
        found.retain(|container| flags.all || container.status.is_live());
        found.reverse();
        return Ok(found);
    }
    flags.containers.iter().map(|name| Ok(engine.find(name)?)).collect()
}

/// One that does not run, or has just ended, uses nothing.
fn sample(engine: &Engine, containers: &[Container]) -> Vec<Sample> {
    let look =
        |container: &Container| Sample { usage: engine.usage(container).ok(), at: Instant::now() };
    containers.iter().map(look).collect()
}

fn print(flags: &args::Stats, rows: &[Value]) -> Result<(), Failure> {
    use std::io::IsTerminal;
    if flags.format == "table" && !flags.no_stream && std::io::stdout().is_terminal() {
        // Home, and what was there before goes.
        print!("\u{1b}[H\u{1b}[2J");
    }
    let heading = [
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ];
    let fields = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];
    print_rows(&flags.format, &heading, &fields, rows)
}

fn row(container: &Container, before: &Sample, now: &Sample, whole: bool) -> Value {
    let id = if whole { container.config.id.as_str() } else { container.short_id() };
    let mut row = json!({
        "ID": id, "Container": id, "Name": container.config.name,
        "CPUPerc": "--", "MemUsage": "-- / --", "MemPerc": "--", "NetIO": "--", "BlockIO": "--",
        "PIDs": "--",
    });
    let Some(usage) = now.usage else { return row };
    let used_us = before.usage.map_or(0, |before| usage.cpu_us.saturating_sub(before.cpu_us));
    let passed_us = u64::try_from((now.at - before.at).as_micros()).unwrap_or(u64::MAX);
    for (field, text) in [
        ("CPUPerc", percent(used_us, passed_us)),
        (
            "MemUsage",
            format!("{} / {}", binary(usage.memory_bytes), binary(usage.memory_limit_bytes)),
        ),
        ("MemPerc", percent(usage.memory_bytes, usage.memory_limit_bytes)),
        ("NetIO", format!("{} / {}", decimal(usage.received_bytes), decimal(usage.sent_bytes))),
        ("BlockIO", format!("{} / {}", decimal(usage.read_bytes), decimal(usage.written_bytes))),
        ("PIDs", usage.pids.to_string()),
    ] {
        row[field] = json!(text);
    }
    row
}

/// Two places behind the point.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// docker's sizes of memory: powers of 1024.
fn binary(bytes: u64) -> String {
    scaled(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// docker's sizes of traffic: powers of 1000.
pub fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Four digits at most, as docker's.
fn scaled(bytes: u64, base: u64, units: &[&str]) -> String {
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit + 1 < units.len() && bytes / scale >= base {
        scale = scale.saturating_mul(base);
        unit += 1;
    }
    let whole = bytes / scale;
    let digits = match whole {
        0..10 => 3,
        10..100 => 2,
        100..1000 => 1,
        _ => 0,
    };
    let power = 10_u128.pow(digits);
    let part = u128::from(bytes % scale) * power / u128::from(scale);
    let part = format!("{part:0width$}", width = digits as usize);
    let part = part.trim_end_matches('0');
    let point = if part.is_empty() || digits == 0 { "" } else { "." };
    format!("{whole}{point}{}{}", if digits == 0 { "" } else { part }, units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5KiB"),
            (3 << 30, "3GiB"),
            (12_900_000, "12.3MiB"),
        ] {
            assert_eq!(binary(bytes), text);
        }
        for (bytes, text) in [(0, "0B"), (12_345, "12.34kB"), (1_000_000, "1MB")] {
            assert_eq!(decimal(bytes), text);
        }
        assert!(binary(u64::MAX).ends_with("EiB"));
    }

    #[test]
    fn shares_have_two_places() {
        assert_eq!(percent(1, 3), "33.33%");
        assert_eq!(percent(3, 2), "150.00%");
        assert_eq!(percent(1, 0), "100.00%");
    }
}
