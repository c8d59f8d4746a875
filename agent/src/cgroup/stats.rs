//! What a container has used, as cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) and the
//! network namespace of a process of it say. A function of a folder and a pid: it waits for nobody,
//! and a file that the kernel does not have leaves its numbers at zero.

mod parse;

pub use parse::entry;

use std::{collections::BTreeMap, fs, io, path::Path};

use nix::unistd::Pid;

use super::{CgroupError, operation};

/// Most devices, page sizes, interfaces and counters that are told, of each kind.
const MAX_ROWS: usize = 256;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// One for each block device that was used.
    pub io: Vec<IoStats>,
    /// One for each size that the guest has.
    pub huge_pages: Vec<HugePageStats>,
    /// Waiting for a processor.
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory.
    pub memory_pressure: Option<Pressure>,
    /// Waiting for block devices.
    pub io_pressure: Option<Pressure>,
    /// One for each of the process's network namespace.
    pub interfaces: Vec<InterfaceStats>,
}

/// `cpu.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Microseconds on a processor.
    pub usage_us: u64,
    /// Of them, in programs.
    pub user_us: u64,
    /// And in the kernel.
    pub system_us: u64,
    /// Periods of the quota that have passed with something to run.
    pub periods: u64,
    /// Of them, those whose quota was used up.
    pub throttled_periods: u64,
    /// How long something waited for the next period.
    pub throttled_us: u64,
}

/// `memory.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub current_bytes: u64,
    /// The most that was in use.
    pub peak_bytes: Option<u64>,
    /// `None` without one.
    pub limit_bytes: Option<u64>,
    /// In swap.
    pub swap_bytes: u64,
    /// `None` without one.
    pub swap_limit_bytes: Option<u64>,
    /// `memory.stat` under the kernel's names: bytes, but what counts events (`pgfault`, ...).
    pub details: BTreeMap<String, u64>,
    /// `memory.events`.
    pub events: MemoryEvents,
}

/// `memory.events`: how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Reclaimed though below `memory.low`.
    pub low: u64,
    /// Throttled at `memory.high`.
    pub high: u64,
    /// At `memory.max`.
    pub max: u64,
    /// At `memory.max`, and nothing could be reclaimed.
    pub oom: u64,
    /// Processes that were killed for it.
    pub oom_kill: u64,
}

/// `pids.*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Processes and threads.
    pub current: u64,
    /// `None` without one.
    pub limit: Option<u64>,
}

/// A line of `io.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoStats {
    /// The device.
    pub major: u32,
    /// The device.
    pub minor: u32,
    /// From the device.
    pub read_bytes: u64,
    /// To the device.
    pub written_bytes: u64,
    /// Operations.
    pub reads: u64,
    /// Operations.
    pub writes: u64,
    /// Given back to the device.
    pub discarded_bytes: u64,
    /// Operations.
    pub discards: u64,
}

/// `hugetlb.SIZE.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePageStats {
    /// `2MB`, `1GB`.
    pub page_size: String,
    /// In use.
    pub current_bytes: u64,
    /// `None` without one.
    pub limit_bytes: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
}

/// A pressure file: Documentation/accounting/psi.rst.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one process waited.
    pub some: Stall,
    /// All of them waited at once.
    pub full: Stall,
}

/// A line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Share of the last ten seconds.
    pub last_10s_percent: f64,
    /// Share of the last minute.
    pub last_60s_percent: f64,
    /// Share of the last five minutes.
    pub last_300s_percent: f64,
    /// Since the container was made.
    pub total_us: u64,
}

/// A line of `/proc/PID/net/dev`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// As the container calls it.
    pub name: String,
    /// To the container.
    pub received: Traffic,
    /// From the container.
    pub sent: Traffic,
}

/// One direction of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Whole frames.
    pub bytes: u64,
    /// Frames.
    pub packets: u64,
    /// Frames that were broken.
    pub errors: u64,
    /// Frames for which there was no room.
    pub dropped: u64,
}

/// Reads all files. Blocks for as long as reads of /sys/fs/cgroup and /proc do. Without a `pid`
/// there are no interfaces; whether it is still the process that was meant is for the caller to
/// see.
///
/// # Errors
/// [`CgroupError::Operation`] when the cgroup is gone.
pub fn gather(folder: &Path, pid: Option<Pid>) -> Result<Stats, CgroupError> {
    let cpu = fs::read_to_string(folder.join("cpu.stat")).map_err(operation("read", folder))?;
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let text = |file: &str| read(file).unwrap_or_default();
    let pressure = |file: &str| read(file).map(|text| parse::pressure(&text));
    Ok(Stats {
        cpu: parse::cpu(&cpu),
        memory: MemoryStats {
            current_bytes: parse::number(&text("memory.current")),
            peak_bytes: read("memory.peak").map(|text| parse::number(&text)),
            limit_bytes: parse::limit(&text("memory.max")),
            swap_bytes: parse::number(&text("memory.swap.current")),
            swap_limit_bytes: parse::limit(&text("memory.swap.max")),
            details: parse::table(&text("memory.stat"))
                .take(MAX_ROWS)
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            events: parse::memory_events(&text("memory.events")),
        },
        pids: PidsStats {
            current: parse::number(&text("pids.current")),
            limit: parse::limit(&text("pids.max")),
        },
        io: text("io.stat").lines().filter_map(parse::io).take(MAX_ROWS).collect(),
        huge_pages: huge_pages(folder).map_err(operation("list", folder))?,
        cpu_pressure: pressure("cpu.pressure"),
        memory_pressure: pressure("memory.pressure"),
        io_pressure: pressure("io.pressure"),
        interfaces: match pid {
            Some(pid) => interfaces(pid).map_err(operation("read the interfaces of", folder))?,
            None => Vec::new(),
        },
    })
}

fn huge_pages(folder: &Path) -> io::Result<Vec<HugePageStats>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let size = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugetlb."))
            .and_then(|name| name.strip_suffix(".current"))
            .filter(|size| !size.contains('.'));
        let Some(size) = size else { continue };
        let text = |file: &str| {
            fs::read_to_string(folder.join(format!("hugetlb.{size}.{file}"))).unwrap_or_default()
        };
        found.push(HugePageStats {
            page_size: size.to_owned(),
            current_bytes: parse::number(&text("current")),
            limit_bytes: parse::limit(&text("max")),
            failures: parse::entry(&text("events"), "max"),
        });
    }
    found.sort_by(|a, b| a.page_size.cmp(&b.page_size));
    found.truncate(MAX_ROWS);
    Ok(found)
}

fn interfaces(pid: Pid) -> io::Result<Vec<InterfaceStats>> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    Ok(text.lines().filter_map(parse::interface).take(MAX_ROWS).collect())
}

/// How many processes below a folder were killed for want of memory, from `memory.events`.
#[must_use]
pub fn oom_kills(events: &str) -> u64 {
    parse::entry(events, "oom_kill")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_without_most_files_gives_zeroes() {
        let folder = tempfile::tempdir().unwrap();
        assert!(gather(folder.path(), None).is_err());
        fs::write(folder.path().join("cpu.stat"), "usage_usec 7\n").unwrap();
        let stats = gather(folder.path(), None).unwrap();
        assert_eq!(stats.cpu.usage_us, 7);
        assert_eq!(stats.memory, MemoryStats::default());
        assert_eq!(stats.cpu_pressure, None);
    }

    #[test]
    fn each_size_of_huge_pages_is_one_row() {
        let folder = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("cpu.stat", ""),
            ("hugetlb.2MB.current", "4194304\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 3\n"),
            ("hugetlb.2MB.rsvd.current", "1\n"),
            ("hugetlb.1GB.current", "0\n"),
            ("hugetlb.1GB.max", "1073741824\n"),
        ] {
            fs::write(folder.path().join(file), content).unwrap();
        }
        let rows = gather(folder.path(), None).unwrap().huge_pages;
        let row = |size: &str, current_bytes, limit_bytes, failures| HugePageStats {
            page_size: size.to_owned(),
            current_bytes,
            limit_bytes,
            failures,
        };
        assert_eq!(rows, [row("1GB", 0, Some(1 << 30), 0), row("2MB", 4 << 20, None, 3)]);
    }

    #[test]
    fn interfaces_of_a_process_are_those_of_its_namespace() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cpu.stat"), "").unwrap();
        let stats = gather(folder.path(), Some(nix::unistd::getpid())).unwrap();
        let expected = fs::read_to_string("/proc/self/net/dev").unwrap().lines().count() - 2;
        assert_eq!(stats.interfaces.len(), expected);
    }
}
