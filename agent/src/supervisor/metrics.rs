//! What the supervisor and its containers have to say as metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Result, State, Status, Supervisor, SupervisorError,
    assets::{Assets, blocking},
};
use crate::guest::{Exposition, Kind, expose};

static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Counts a request to the actor.
pub fn count_request() {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
}

/// A metric that each container has: name, kind, help, and where it stands in the cgroup. A word after
/// a colon is the key of a line in the file.
const FILES: [(&str, Kind, &str, &str, &str); 8] = [
    ("cpu_usage_us_total", Kind::Counter, "Processor time.", "cpu.stat", "usage_usec"),
    ("cpu_user_us_total", Kind::Counter, "Of it in programs.", "cpu.stat", "user_usec"),
    ("cpu_system_us_total", Kind::Counter, "Of it in the kernel.", "cpu.stat", "system_usec"),
    ("cpu_throttled_us_total", Kind::Counter, "Waiting for quota.", "cpu.stat", "throttled_usec"),
    ("memory_bytes", Kind::Gauge, "Memory in use.", "memory.current", ""),
    ("memory_swap_bytes", Kind::Gauge, "Memory in swap.", "memory.swap.current", ""),
    ("memory_oom_kills_total", Kind::Counter, "Killed for memory.", "memory.events", "oom_kill"),
    ("pids", Kind::Gauge, "Processes and threads.", "pids.current", ""),
];

impl Supervisor {
    /// All metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn metrics(&self) -> Result<String> {
        let list = self.list().await?;
        let mut held = Vec::new();
        for status in &list {
            // One that is being made or deleted has nothing to show.
            if let Ok(assets) = self.hold(status.id.clone()).await {
                held.push((status.clone(), assets));
            }
        }
        blocking(move || write(&list, &held)).await?
    }
}

fn write(list: &[Status], held: &[(Status, Arc<Assets>)]) -> Result<String> {
    let mut out = Exposition::default();
    expose(&mut out).map_err(SupervisorError::from)?;
    let requests = REQUESTS.load(Ordering::Relaxed);
    let name = "husk_agent_requests_total";
    out.single(name, Kind::Counter, "Requests about containers.", requests);
    let name = "husk_agent_containers";
    out.metric(name, Kind::Gauge, "Containers, by state.");
    for state in [State::Created, State::Running, State::Stopped] {
        let count = list.iter().filter(|status| status.state == state).count();
        out.sample(name, &[("state", &state.to_string())], count);
    }
    for (name, kind, help, file, key) in FILES {
        let name = format!("husk_container_{name}");
        out.metric(&name, kind, help);
        for (status, assets) in held {
            if let Some(value) = assets.cgroup.read(file).and_then(|text| number(&text, key)) {
                out.sample(&name, &[("container", status.id.as_str())], value);
            }
        }
    }
    network(&mut out, held);
    Ok(out.finish())
}

/// The number of a line `key number`, or the file's only one.
fn number(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| line.trim().parse().ok();
    if key.is_empty() {
        return value(text);
    }
    text.lines().find_map(|line| value(line.strip_prefix(key)?.strip_prefix(' ')?))
}

/// proc(5), /proc/PID/net/dev, of the first process.
fn network(out: &mut Exposition, held: &[(Status, Arc<Assets>)]) {
    /// Metric and column.
    const COLUMNS: [(&str, &str, usize); 2] = [
        ("husk_container_network_received_bytes_total", "Received.", 0),
        ("husk_container_network_sent_bytes_total", "Sent.", 8),
    ];
    let tables: Vec<_> = held
        .iter()
        .filter(|(status, _)| status.state != State::Stopped)
        .filter_map(|(status, _)| {
            let table = std::fs::read_to_string(format!("/proc/{}/net/dev", status.pid)).ok()?;
            Some((status.id.as_str(), table))
        })
        .collect();
    for (name, help, column) in COLUMNS {
        out.metric(name, Kind::Counter, help);
        for (id, table) in &tables {
            for line in table.lines().skip(2) {
                let Some((interface, numbers)) = line.split_once(':') else { continue };
                let value = numbers.split_whitespace().nth(column);
                if let Some(value) = value.and_then(|value| value.parse::<u64>().ok()) {
                    let labels = [("container", *id), ("interface", interface.trim())];
                    out.sample(name, &labels, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_key() {
        let text = "usage_usec 5\nuser_usec 3\nuser_usec_more 9\n";
        assert_eq!(number(text, "user_usec"), Some(3));
        assert_eq!(number(text, "usage"), None);
        assert_eq!(number("17\n", ""), Some(17));
        assert_eq!(number("max\n", ""), None);
    }
}
