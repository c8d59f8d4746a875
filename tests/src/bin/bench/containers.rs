//! Whole containers, through the command line as people type it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use husk_tests::{BUSYBOX, Bed};
use sha2::{Digest, Sha256};

use super::machine::{agent_resident, floor, guest_with};
use super::report::{Report, median, ratio};

const MIB: f64 = 1024.0 * 1024.0;
/// What goes through a container's stdin and stdout.
const STREAM_BYTES: usize = 64 << 20;

/// A husk command without the harness around it, which looks at it only now and then.
pub fn husk(bed: &Bed, words: &[&str]) -> Command {
    let mut command = Command::new(bed.bin());
    command
        .args(words)
        .env("HUSK_DATA_DIR", bed.data())
        .env("HUSK_RUNTIME_DIR", bed.runtime())
        .env("HUSK_GUEST_DIR", bed.guest());
    command
}

/// `husk run --rm IMAGE true` over a VM that ends at once.
pub fn against_the_floor(bed: &Bed, inits: &Path, runs: usize, report: &mut Report) -> Result<()> {
    let floor_guest = guest_with(bed, inits, "floor-init")?;
    let (mut husk_times, mut floor_times) = (Vec::new(), Vec::new());
    let mut phases = Vec::new();
    for _ in 0..runs {
        floor_times.push(floor(bed, &floor_guest)?);
        let began = Instant::now();
        let output = husk(bed, &["run", "--rm", "--timings", BUSYBOX, "true"]).output()?;
        husk_times.push(began.elapsed());
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "husk run: {told}");
        phases.push(timings(&told));
    }
    let (run, floor) = (median(&husk_times), median(&floor_times));
    report.time("floor: VM start to end, nothing in it", floor);
    report.time("husk run --rm IMAGE true", run);
    report.add("husk run over floor", ratio(run, floor), "x", Some(1.6));
    let names: Vec<String> = phases.first().into_iter().flatten().map(|p| p.0.clone()).collect();
    for (index, name) in names.iter().enumerate() {
        let values: Vec<f64> =
            phases.iter().filter_map(|run| run.get(index)).map(|phase| phase.1).collect();
        report.add(&format!("  of which {name}"), median(&values), "ms", None);
    }
    Ok(())
}

/// The lines of `--timings`: name and milliseconds.
fn timings(text: &str) -> Vec<(String, f64)> {
    let line = |line: &str| {
        let mut words: Vec<&str> = line.strip_suffix(" ms")?.split_whitespace().collect();
        let value = words.pop()?.parse().ok()?;
        Some((words.join(" "), value))
    };
    text.lines().filter_map(line).filter(|(name, _)| name != "total").collect()
}

/// Programs on disk.
pub fn programs(bed: &Bed, report: &mut Report) -> Result<()> {
    let manifest = std::fs::read(bed.guest().join("manifest.json"))?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let bytes = |part: &str| {
        let file = &manifest[part];
        file["bytes"].as_f64().or_else(|| file["file"]["bytes"].as_f64()).unwrap_or(f64::NAN)
    };
    report.add("agent, stripped", bytes("agent") / MIB, "MiB", Some(4.0));
    report.add("initramfs", bytes("initramfs") / MIB, "MiB", Some(5.0));
    report.add("husk, stripped", std::fs::metadata(bed.bin())?.len() as f64 / MIB, "MiB", None);
    Ok(())
}

/// Processes in memory.
pub fn sizes(bed: &Bed, report: &mut Report) -> Result<()> {
    let agent = agent_resident(bed)?;
    report.add("agent, resident in the guest", agent as f64 / MIB, "MiB", Some(6.0));
    bed.start_sh("resident", "sleep 1000");
    let monitor = bed.inspect("resident")["Husk"]["MonitorPid"].as_u64().context("no monitor")?;
    let kib = resident_kib(monitor)?;
    report.add("monitor, resident", kib / 1024.0, "MiB", Some(15.0));
    bed.husk(&["rm", "-f", "resident"]).ok();
    Ok(())
}

fn resident_kib(pid: u64) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).context("no VmRSS")?;
    Ok(kib.parse()?)
}

/// 64 MiB in and out again, the same.
pub fn throughput(bed: &Bed, runs: usize, report: &mut Report) -> Result<()> {
    let bytes = noise();
    let digest = Sha256::digest(&bytes);
    bed.start_sh("pipe", "sleep 1000");
    let mut times = Vec::new();
    for _ in 0..runs {
        let began = Instant::now();
        let output = bed.husk(&["exec", "-i", "pipe", "cat"]).stdin(bytes.clone()).ok();
        times.push(began.elapsed());
        ensure!(Sha256::digest(&output.stdout) == digest, "what came back is not what went in");
    }
    bed.husk(&["rm", "-f", "pipe"]).ok();
    let time: Duration = median(&times);
    let rate = STREAM_BYTES as f64 / MIB / time.as_secs_f64();
    report.add("64 MiB through a container's stdin to its stdout", rate, "MiB/s", None);
    Ok(())
}

/// Bytes without a pattern: xorshift64.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(STREAM_BYTES);
    while bytes.len() < STREAM_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
