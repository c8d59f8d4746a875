//! How much of the machine a container may have, and its processes.

use serde::{Deserialize, Serialize};

/// Limits of a container. 0 and empty are "not asked for".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes of memory for the workload.
    pub memory_bytes: u64,
    /// Bytes of memory and swap together; -1 is no limit.
    pub memory_swap_bytes: i64,
    /// Bytes that are taken from it last.
    pub memory_reservation_bytes: u64,
    /// CPU time per time, in thousandths of one CPU.
    pub milli_cpus: u64,
    /// Weight against others, 1024 being everybody's.
    pub cpu_shares: u64,
    /// CPU time per period, microseconds; -1 is no limit.
    pub cpu_quota_us: i64,
    /// That period, microseconds.
    pub cpu_period_us: u64,
    /// CPUs that it runs on: `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes that it allocates on.
    pub cpuset_mems: String,
    /// Processes and threads; -1 is no limit.
    pub pids_limit: i64,
    /// Weight of its disk traffic, 10 to 1000.
    pub blkio_weight: u16,
}

/// One `RLIMIT_*` of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// As docker's `--ulimit` has it: `nofile`.
    pub name: String,
    /// In force; -1 is no limit.
    pub soft: i64,
    /// Its ceiling; -1 is none.
    pub hard: i64,
}

/// What a container without a limit has.
const DEFAULT_WORKLOAD_BYTES: u64 = 1 << 30;

impl Resources {
    /// Memory that its machine has for it.
    #[must_use]
    pub fn workload_bytes(&self) -> u64 {
        if self.memory_bytes == 0 { DEFAULT_WORKLOAD_BYTES } else { self.memory_bytes }
    }

    /// The highest number of a list like `0-2,4`; `None` when it is no such list.
    #[must_use]
    pub fn last_of(list: &str) -> Option<u32> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<u32>().ok().filter(|_| digits)
            };
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(last)
        };
        list.split(',').map(range).try_fold(0, |highest, last| Some(last?.max(highest)))
    }

    /// How many CPUs can be of use to the container, at least one.
    #[must_use]
    pub fn useful_cpus(&self) -> u32 {
        let quota = u64::try_from(self.cpu_quota_us).unwrap_or(0);
        let period = if self.cpu_period_us > 0 { self.cpu_period_us } else { 100_000 };
        let by_time = self.milli_cpus.div_ceil(1000).max(quota.div_ceil(period)).max(1);
        let by_time = u32::try_from(by_time).unwrap_or(u32::MAX);
        let by_number = Self::last_of(&self.cpuset_cpus).map_or(0, |last| last.saturating_add(1));
        by_time.max(by_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_have_a_last_one() {
        assert_eq!(Resources::last_of("0-2,1"), Some(2));
        assert_eq!(Resources::last_of("3"), Some(3));
        for bad in ["", "x", "2-1", "0,", "-1", "+1", "0-1-2", "99999999999"] {
            assert_eq!(Resources::last_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn machine_has_a_cpu_for_each_that_is_named_or_paid_for() {
        let none = Resources::default;
        assert_eq!(none().useful_cpus(), 1);
        assert_eq!(Resources { milli_cpus: 1500, ..none() }.useful_cpus(), 2);
        assert_eq!(Resources { cpu_quota_us: 250_000, ..none() }.useful_cpus(), 3);
        assert_eq!(Resources { cpuset_cpus: "1,3".into(), ..none() }.useful_cpus(), 4);
        assert_eq!(Resources { cpu_quota_us: -1, ..none() }.useful_cpus(), 1);
    }
}
