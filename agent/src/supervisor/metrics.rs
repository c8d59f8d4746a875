//! What the supervisor and its containers have to say as metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use husk_protocols::id::ContainerId;

use super::{Result, State, Status, Supervisor, SupervisorError, assets::blocking, target::Target};
use crate::{
    cgroup::stats::{InterfaceStats, IoStats, Pressure, Stats},
    guest::{
        Exposition,
        Kind::{self, Counter, Gauge},
        expose,
    },
};

static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Counts a request to the actor.
pub fn count_request() {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
}

/// A number that each container has: name, kind, help, and where it stands.
type Number = (&'static str, Kind, &'static str, fn(&Stats) -> u64);

const NUMBERS: [Number; 8] = [
    ("cpu_usage_us_total", Counter, "Processor time.", |stats| stats.cpu.usage_us),
    ("cpu_user_us_total", Counter, "Of it in programs.", |stats| stats.cpu.user_us),
    ("cpu_system_us_total", Counter, "Of it in the kernel.", |stats| stats.cpu.system_us),
    ("cpu_throttled_us_total", Counter, "Waiting for quota.", |stats| stats.cpu.throttled_us),
    ("memory_bytes", Gauge, "Memory in use.", |stats| stats.memory.current_bytes),
    ("memory_swap_bytes", Gauge, "Memory in swap.", |stats| stats.memory.swap_bytes),
    ("memory_oom_kills_total", Counter, "Killed for memory.", |stats| stats.memory.events.oom_kill),
    ("pids", Gauge, "Processes and threads.", |stats| stats.pids.current),
];

/// The same for each block device.
type OfDevice = (&'static str, &'static str, fn(&IoStats) -> u64);

const DEVICES: [OfDevice; 4] = [
    ("io_read_bytes_total", "From the device.", |io| io.read_bytes),
    ("io_written_bytes_total", "To the device.", |io| io.written_bytes),
    ("io_reads_total", "Operations.", |io| io.reads),
    ("io_writes_total", "Operations.", |io| io.writes),
];

/// The same for each interface.
type OfInterface = (&'static str, &'static str, fn(&InterfaceStats) -> u64);

const INTERFACES: [OfInterface; 6] = [
    ("network_received_bytes_total", "To the container.", |one| one.received.bytes),
    ("network_received_packets_total", "To the container.", |one| one.received.packets),
    ("network_received_dropped_total", "Without room.", |one| one.received.dropped),
    ("network_sent_bytes_total", "From the container.", |one| one.sent.bytes),
    ("network_sent_packets_total", "From the container.", |one| one.sent.packets),
    ("network_sent_dropped_total", "Without room.", |one| one.sent.dropped),
];

/// Time for which some or all processes waited, for each of these.
type OfPressure = (&'static str, fn(&Stats) -> Option<Pressure>);

const PRESSURES: [OfPressure; 3] = [
    ("pressure_cpu_stall_us_total", |stats| stats.cpu_pressure),
    ("pressure_memory_stall_us_total", |stats| stats.memory_pressure),
    ("pressure_io_stall_us_total", |stats| stats.io_pressure),
];

impl Supervisor {
    /// All metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn metrics(&self) -> Result<String> {
        let list = self.list().await?;
        let mut reached = Vec::new();
        for status in &list {
            // One that is being made or deleted has nothing to show.
            if let Ok(target) = self.reach(status.id.clone()).await {
                reached.push((status.id.clone(), target));
            }
        }
        blocking(move || {
            let gathered: Vec<_> =
                reached.iter().filter_map(|(id, target)| Some((id, gather(target)?))).collect();
            write(&list, &gathered)
        })
        .await?
    }
}

/// One that has ended has no interfaces, and has used what it has.
fn gather(target: &Target) -> Option<Stats> {
    target.stats().ok().or_else(|| target.assets.cgroup.stats(None).ok())
}

fn write(list: &[Status], gathered: &[(&ContainerId, Stats)]) -> Result<String> {
    let mut out = Exposition::default();
    expose(&mut out).map_err(SupervisorError::from)?;
    let requests = REQUESTS.load(Ordering::Relaxed);
    out.single("husk_agent_requests_total", Counter, "Requests about containers.", requests);
    let name = "husk_agent_containers";
    out.metric(name, Gauge, "Containers, by state.");
    for state in [State::Created, State::Running, State::Paused, State::Stopped] {
        let count = list.iter().filter(|status| status.state == state).count();
        out.sample(name, &[("state", &state.to_string())], count);
    }
    for (name, kind, help, number) in NUMBERS {
        metric(&mut out, (name, kind, help), gathered, |stats, sample| sample(&[], number(stats)));
    }
    for (name, help, number) in DEVICES {
        metric(&mut out, (name, Counter, help), gathered, |stats, sample| {
            for io in &stats.io {
                let device = format!("{}:{}", io.major, io.minor);
                sample(&[("device", &device)], number(io));
            }
        });
    }
    for (name, help, number) in INTERFACES {
        metric(&mut out, (name, Counter, help), gathered, |stats, sample| {
            for one in &stats.interfaces {
                sample(&[("interface", &one.name)], number(one));
            }
        });
    }
    for (name, pressure) in PRESSURES {
        let help = "Time for which some or all processes waited.";
        metric(&mut out, (name, Counter, help), gathered, |stats, sample| {
            if let Some(pressure) = pressure(stats) {
                sample(&[("share", "some")], pressure.some.total_us);
                sample(&[("share", "full")], pressure.full.total_us);
            }
        });
    }
    Ok(out.finish())
}

/// Takes a sample of a container: further labels, and its value.
type Sample<'a> = dyn FnMut(&[(&str, &str)], u64) + 'a;

/// A metric with the samples of all containers.
fn metric(
    out: &mut Exposition,
    (name, kind, help): (&str, Kind, &str),
    gathered: &[(&ContainerId, Stats)],
    samples: impl Fn(&Stats, &mut Sample<'_>),
) {
    let name = format!("husk_container_{name}");
    out.metric(&name, kind, help);
    for (id, stats) in gathered {
        samples(stats, &mut |labels, value| {
            let labels: Vec<_> =
                [("container", id.as_str())].into_iter().chain(labels.iter().copied()).collect();
            out.sample(&name, &labels, value);
        });
    }
}
