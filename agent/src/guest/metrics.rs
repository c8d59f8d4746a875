//! Prometheus' text format, version 0.0.4, and what the agent and its guest have to say in it.

use std::{fmt::Write as _, fs};

use super::{
    Result,
    info::{kib_of, read, resident_bytes, uptime},
};

/// What a number does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A text in the making. Samples of one metric are given together.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the metric. Label values are escaped; names and values are the agent's own.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A metric of one sample.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl std::fmt::Display) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The agent and the guest. Blocks for as long as reads below /proc do.
///
/// # Errors
/// [`super::GuestError::Call`].
pub fn expose(out: &mut Exposition) -> Result<()> {
    use Kind::Gauge;
    let resident = resident_bytes()?;
    out.single("husk_agent_resident_bytes", Gauge, "Resident memory of the agent.", resident);
    let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    out.single("husk_agent_open_fds", Gauge, "Open descriptors of the agent.", descriptors);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    out.metric("husk_agent_info", Gauge, "The agent's release.");
    out.sample("husk_agent_info", &version, 1);
    let seconds = uptime().as_secs_f64();
    out.single("husk_guest_uptime_seconds", Gauge, "Since the guest kernel's start.", seconds);
    memory(out)?;
    processors(out)?;
    for resource in ["cpu", "memory", "io"] {
        pressure(out, resource);
    }
    Ok(())
}

fn memory(out: &mut Exposition) -> Result<()> {
    let meminfo = read("/proc/meminfo")?;
    let name = "husk_guest_memory_bytes";
    out.metric(name, Kind::Gauge, "Memory of the guest, by the kernel's names.");
    for kind in ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "Slab", "SwapTotal"] {
        out.sample(name, &[("kind", kind)], kib_of(&meminfo, &format!("{kind}:")));
    }
    Ok(())
}

/// proc(5), /proc/stat and /proc/loadavg.
fn processors(out: &mut Exposition) -> Result<()> {
    const MODES: [&str; 8] =
        ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
    /// `USER_HZ` of every architecture that is left.
    const TICKS_OF_A_SECOND: f64 = 100.0;
    let stat = read("/proc/stat")?;
    let name = "husk_guest_cpu_seconds_total";
    out.metric(name, Kind::Counter, "Time of all processors, by what they did.");
    let totals = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    for (mode, ticks) in MODES.iter().zip(totals.split_whitespace()) {
        let ticks: u32 = ticks.parse().unwrap_or_default();
        out.sample(name, &[("mode", mode)], f64::from(ticks) / TICKS_OF_A_SECOND);
    }
    let load = read("/proc/loadavg")?;
    let name = "husk_guest_load";
    out.metric(name, Kind::Gauge, "Load average.");
    for (minutes, value) in ["1", "5", "15"].iter().zip(load.split_whitespace()) {
        let value: f64 = value.parse().unwrap_or_default();
        out.sample(name, &[("minutes", minutes)], value);
    }
    Ok(())
}

/// A kernel without pressure stall information has no such metric.
fn pressure(out: &mut Exposition, resource: &str) {
    let Ok(text) = fs::read_to_string(format!("/proc/pressure/{resource}")) else { return };
    let name = format!("husk_guest_pressure_{resource}_stall_us_total");
    out.metric(&name, Kind::Counter, "Time for which some or all processes waited.");
    for line in text.lines() {
        let (share, rest) = line.split_once(' ').unwrap_or((line, ""));
        let total = rest.split("total=").nth(1).and_then(|total| total.trim().parse::<u64>().ok());
        if let (Some(total), "some" | "full") = (total, share) {
            out.sample(&name, &[("share", share)], total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_cannot_break_a_line() {
        let mut out = Exposition::default();
        out.sample("x", &[("a", "\"} 1\ny{b=\"\\"), ("c", "d")], 2);
        assert_eq!(out.finish(), "x{a=\"\\\"} 1\\ny{b=\\\"\\\\\",c=\"d\"} 2\n");
    }

    #[test]
    fn own_metrics_are_there() {
        let mut out = Exposition::default();
        expose(&mut out).unwrap();
        let text = out.finish();
        assert!(text.contains("\nhusk_guest_load{minutes=\"1\"} "), "{text}");
    }
}
