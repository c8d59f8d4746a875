//! What the guest says of itself.

use std::{fs, time::Duration};

use nix::time::{ClockId, clock_gettime};

use super::{Cpus, GuestError, Result};

/// A look at the guest.
#[derive(Debug, Clone)]
pub struct Info {
    /// The agent's resident memory.
    pub resident_bytes: u64,
    /// All of the guest's.
    pub memory_bytes: u64,
    /// Its processors.
    pub cpus: Cpus,
    /// As `uname -r` says it.
    pub kernel_release: String,
    /// What cgroups can limit.
    pub cgroup_controllers: Vec<String>,
    /// Since the kernel's start.
    pub uptime: Duration,
}

/// A small file of the kernel's.
pub fn read(path: &'static str) -> Result<String> {
    fs::read_to_string(path).map_err(GuestError::call("read", path))
}

/// Looks the guest over. Blocks for as long as reads below /proc and /sys do.
///
/// # Errors
/// [`GuestError::Call`].
pub fn info() -> Result<Info> {
    Ok(Info {
        resident_bytes: resident_bytes()?,
        memory_bytes: kib_of(&read("/proc/meminfo")?, "MemTotal:"),
        cpus: Cpus::count()?,
        kernel_release: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cgroup_controllers: read("/sys/fs/cgroup/cgroup.controllers")?
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        uptime: uptime(),
    })
}

/// Counted from the page tables: statm leaves out what threads have yet to add up.
pub fn resident_bytes() -> Result<u64> {
    Ok(kib_of(&read("/proc/self/smaps_rollup")?, "Rss:"))
}

/// Since the kernel's start, pauses of the machine included where it is told of them.
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The bytes of a line like `MemTotal:  512 kB`; 0 without it.
pub fn kib_of(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_their_name() {
        let text = "MemTotal:  100 kB\nMemFree: 1 kB\n";
        assert_eq!(kib_of(text, "MemTotal:"), 102_400);
        assert_eq!(kib_of(text, "MemFree:"), 1024);
        assert_eq!(kib_of(text, "Swap:"), 0);
    }
}
