//! `linux.resources` as the files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) and what
//! to write there. Pure.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxPids, LinuxRdma, LinuxResources,
};

use super::block::{self, WeightFile, Weights};
use crate::spec::{SpecError, has, refuse};

/// A file of a cgroup folder, and what to write there: one line.
pub type Setting = (String, String);

const FIELD: &str = "linux.resources";
/// Files whose lines are each about a device: a line does not take the place of another.
pub const BY_DEVICE: [&str; 7] =
    ["io.max", "io.weight", "io.bfq.weight", "io.latency", "io.low", "rdma.max", "misc.max"];

/// What a spec asks of a cgroup but device rules.
#[derive(Debug, Default)]
pub struct Limits {
    settings: Vec<Setting>,
    weights: Weights,
    unified: Vec<Setting>,
    /// `memory.limit`, where it must not be below what is in use.
    pub checked_memory_bytes: Option<u64>,
    /// `cpu.period` without `cpu.quota`.
    pub period_alone: bool,
}

impl Limits {
    /// Reads `linux.resources`.
    ///
    /// # Errors
    /// [`SpecError`] with the field's name.
    pub fn read(resources: &LinuxResources) -> Result<Self, SpecError> {
        let mut limits = Self::default();
        let settings = &mut limits.settings;
        if let Some(network) = resources.network() {
            refuse_network(network)?;
        }
        if let Some(cpu) = resources.cpu() {
            cpu_settings(cpu, settings)?;
            limits.period_alone =
                cpu.period().is_some() && cpu.quota().is_none_or(|quota| quota == 0);
        }
        if let Some(memory) = resources.memory() {
            memory_settings(memory, settings)?;
            limits.checked_memory_bytes = memory
                .limit()
                .filter(|_| memory.check_before_update() == Some(true))
                .and_then(|limit| u64::try_from(limit).ok())
                .filter(|&limit| limit != 0);
        }
        if let Some(pids) = resources.pids() {
            settings.extend(pids_setting(pids));
        }
        if let Some(block) = resources.block_io() {
            limits.weights = block::read(block, settings)?;
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            huge_page_settings(limit, settings)?;
        }
        if let Some(rdma) = resources.rdma() {
            rdma_settings(rdma, settings)?;
        }
        if let Some(unified) = resources.unified() {
            let mut unified: Vec<_> = unified.iter().collect();
            unified.sort();
            for (file, value) in unified {
                limits.unified.extend(unified_settings(file, value)?);
            }
        }
        Ok(limits)
    }

    /// In the order they must be written, where `unified` has the last word.
    #[must_use]
    pub fn settings(&self, weights: WeightFile) -> Vec<Setting> {
        let mut settings = self.settings.clone();
        settings.extend(self.weights.settings(weights));
        settings.retain(|(file, _)| {
            BY_DEVICE.contains(&file.as_str())
                || !self.unified.iter().any(|(unified, _)| unified == file)
        });
        settings.extend(self.unified.iter().cloned());
        settings
    }

    /// Whether devices are to be shared by weight.
    #[must_use]
    pub fn weigh_devices(&self) -> bool {
        self.weights.are_given()
    }
}

fn refuse_network(network: &LinuxNetwork) -> Result<(), SpecError> {
    // They were controllers of cgroup v1; v2 leaves both to the packet filter.
    refuse(
        "linux.resources.network.",
        &[
            ("classID", network.class_id().is_some_and(|class| class != 0)),
            ("priorities", has(network.priorities())),
        ],
    )
}

fn cpu_settings(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<(), SpecError> {
    refuse(
        "linux.resources.cpu.",
        &[
            ("realtimeRuntime", cpu.realtime_runtime().is_some_and(|value| value != 0)),
            ("realtimePeriod", cpu.realtime_period().is_some_and(|value| value != 0)),
        ],
    )?;
    let mut push = |file: &str, value: String| settings.push((file.to_owned(), value));
    let shares = cpu.shares().filter(|&shares| shares != 0);
    if let Some(idle) = cpu.idle() {
        let invalid = |reason| SpecError::invalid("linux.resources.cpu.idle", reason);
        match (idle, shares) {
            (0, _) | (1, None) => push("cpu.idle", idle.to_string()),
            (1, Some(_)) => return Err(invalid("an idle cgroup has no shares".to_owned())),
            (other, _) => return Err(invalid(format!("{other} is neither 0 nor 1"))),
        }
    }
    if let Some(shares) = shares {
        push("cpu.weight", weight(shares).to_string());
    }
    // The kernel's default period, for a quota without one.
    let period = cpu.period().filter(|&period| period != 0);
    if cpu.quota().is_some_and(|quota| quota != 0) || period.is_some() {
        let quota = match cpu.quota() {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = period.map(|period| format!(" {period}")).unwrap_or_default();
        push("cpu.max", format!("{quota}{period}"));
    }
    if let Some(burst) = cpu.burst() {
        push("cpu.max.burst", burst.to_string());
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            push(file, list.clone());
        }
    }
    Ok(())
}

/// From cgroup v1's shares (2 to 262144, default 1024) to v2's weight (1 to 10000), linearly, as
/// the runtime-spec's users expect.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

fn memory_settings(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), SpecError> {
    #[allow(deprecated, reason = "a spec may still have them")]
    let (kernel, kernel_tcp) = (memory.kernel(), memory.kernel_tcp());
    refuse(
        "linux.resources.memory.",
        &[
            // Zero and -1 ask for nothing.
            ("kernel", kernel.is_some_and(|value| value > 0)),
            ("kernelTCP", kernel_tcp.is_some_and(|value| value > 0)),
            ("swappiness", memory.swappiness().is_some()),
            ("disableOOMKiller", memory.disable_oom_killer() == Some(true)),
            ("useHierarchy", memory.use_hierarchy() == Some(false)),
        ],
    )?;
    let limit = memory.limit().filter(|&limit| limit != 0);
    if let Some(limit) = limit {
        settings.push(("memory.max".to_owned(), bytes("memory.limit", limit)?));
    }
    let swap = memory.swap().filter(|&swap| swap != 0);
    // No limit of memory is none of both, as it was in cgroup v1.
    if let Some(swap) = swap.or(limit.filter(|&limit| limit == -1)) {
        settings.push(("memory.swap.max".to_owned(), swap_only(swap, limit)?));
    }
    if let Some(reservation) = memory.reservation().filter(|&value| value != 0) {
        settings.push(("memory.low".to_owned(), bytes("memory.reservation", reservation)?));
    }
    Ok(())
}

fn bytes(field: &str, value: i64) -> Result<String, SpecError> {
    match value {
        -1 => Ok("max".to_owned()),
        value if value < 0 => {
            Err(SpecError::invalid(format!("{FIELD}.{field}"), format!("{value} is negative")))
        }
        value => Ok(value.to_string()),
    }
}

/// The spec counts memory and swap together, cgroup v2 swap alone.
fn swap_only(total: i64, limit: Option<i64>) -> Result<String, SpecError> {
    let invalid = |reason: &str| SpecError::invalid(format!("{FIELD}.memory.swap"), reason);
    match (total, limit) {
        (-1, _) => Ok("max".to_owned()),
        (_, None | Some(-1)) => Err(invalid("needs a memory limit")),
        (total, Some(limit)) => match total.checked_sub(limit) {
            Some(swap) if swap >= 0 => Ok(swap.to_string()),
            _ => Err(invalid("is below the memory limit")),
        },
    }
}

/// Zero asks for nothing.
fn pids_setting(pids: &LinuxPids) -> Option<Setting> {
    let value = match pids.limit() {
        0 => return None,
        limit if limit > 0 => limit.to_string(),
        _ => "max".to_owned(),
    };
    Some(("pids.max".to_owned(), value))
}

/// Both what is used and what is reserved: a program that reserves more than it may use would be
/// killed by SIGBUS at the page that is too much.
fn huge_page_settings(
    limit: &LinuxHugepageLimit,
    settings: &mut Vec<Setting>,
) -> Result<(), SpecError> {
    let size = limit.page_size();
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
    let is_size = digits.is_some_and(|digits| {
        digits.bytes().all(|byte| byte.is_ascii_digit())
            && digits.parse::<u32>().is_ok_and(u32::is_power_of_two)
    });
    if !is_size {
        let shown: String = size.chars().take(80).collect();
        let reason = format!("{shown:?} is no size of a page (64KB, 2MB, 1GB)");
        return Err(SpecError::invalid("linux.resources.hugepageLimits.pageSize", reason));
    }
    let value = bytes("hugepageLimits.limit", limit.limit())?;
    for file in ["max", "rsvd.max"] {
        settings.push((format!("hugetlb.{size}.{file}"), value.clone()));
    }
    Ok(())
}

fn rdma_settings(
    rdma: &HashMap<String, LinuxRdma>,
    settings: &mut Vec<Setting>,
) -> Result<(), SpecError> {
    let mut devices: Vec<_> = rdma.iter().collect();
    devices.sort_by_key(|(device, _)| *device);
    for (device, limit) in devices {
        if device.is_empty() || device.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let reason = format!("{:?} is no device", device.chars().take(80).collect::<String>());
            return Err(SpecError::invalid("linux.resources.rdma", reason));
        }
        let mut line = device.clone();
        for (key, value) in
            [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())]
        {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        settings.push(("rdma.max".to_owned(), line));
    }
    Ok(())
}

fn unified_settings(file: &str, value: &str) -> Result<impl Iterator<Item = Setting>, SpecError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let controller = file.split('.').next().unwrap_or_default();
    // "cgroup." files move processes and enable controllers: not resources.
    if !file.chars().all(allowed) || !file.contains('.') || matches!(controller, "" | "cgroup") {
        let name: String = file.chars().take(80).collect();
        let reason = format!("{name:?} is no resource of a cgroup");
        return Err(SpecError::invalid(format!("{FIELD}.unified"), reason));
    }
    // The kernel takes one line at a time.
    Ok(value.lines().map(move |line| (file.to_owned(), line.to_owned())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(resources: Value) -> Result<Vec<Setting>, SpecError> {
        let limits = Limits::read(&serde_json::from_value(resources).unwrap())?;
        Ok(limits.settings(WeightFile::Cost))
    }

    fn expect(resources: Value, settings: &[(&str, &str)]) {
        let read: Vec<Setting> = read(resources).unwrap();
        let read: Vec<(&str, &str)> =
            read.iter().map(|(file, value)| (file.as_str(), value.as_str())).collect();
        assert_eq!(read, settings);
    }

    #[test]
    fn memory_and_swap_are_counted_apart() {
        expect(
            json!({"memory": {"limit": 100, "swap": 150, "reservation": 50}}),
            &[("memory.max", "100"), ("memory.swap.max", "50"), ("memory.low", "50")],
        );
        expect(
            json!({"memory": {"limit": 100, "swap": 100}}),
            &[("memory.max", "100"), ("memory.swap.max", "0")],
        );
        expect(
            json!({"memory": {"limit": -1, "swap": -1}}),
            &[("memory.max", "max"), ("memory.swap.max", "max")],
        );
    }

    #[test]
    fn cpu_is_a_weight_and_a_share_of_the_period() {
        expect(
            json!({"cpu": {"shares": 1024, "quota": 50000, "period": 100_000}}),
            &[("cpu.weight", "39"), ("cpu.max", "50000 100000")],
        );
        expect(json!({"cpu": {"quota": -1}}), &[("cpu.max", "max")]);
        expect(json!({"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": ""}}), &[]);
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
        assert_eq!((weight(1), weight(u64::MAX)), (1, 10_000));
    }

    #[test]
    fn pids_and_unified_are_written_as_they_are() {
        expect(
            json!({"pids": {"limit": 10}, "unified": {"memory.high": "1M"}}),
            &[("pids.max", "10"), ("memory.high", "1M")],
        );
        expect(json!({"pids": {"limit": -1}}), &[("pids.max", "max")]);
    }

    #[test]
    fn no_limit_of_memory_is_none_of_swap() {
        expect(
            json!({"memory": {"limit": -1, "kernel": -1, "disableOOMKiller": false}}),
            &[("memory.max", "max"), ("memory.swap.max", "max")],
        );
    }

    #[test]
    fn unified_has_the_last_word() {
        expect(
            json!({
                "memory": {"limit": 100},
                "pids": {"limit": 5},
                "unified": {"memory.max": "200", "io.max": "1:2 rbps=5\n1:3 rbps=6"},
                "blockIO": {"throttleReadBpsDevice": [{"major": 1, "minor": 2, "rate": 4}]},
            }),
            &[
                ("pids.max", "5"),
                ("io.max", "1:2 rbps=4"),
                ("io.max", "1:2 rbps=5"),
                ("io.max", "1:3 rbps=6"),
                ("memory.max", "200"),
            ],
        );
    }

    #[test]
    fn huge_pages_and_rdma_have_a_line_for_each() {
        expect(
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}),
            &[("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")],
        );
        expect(
            json!({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}}}),
            &[("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000")],
        );
    }

    #[test]
    fn idle_is_written_before_the_weight_it_makes_possible() {
        expect(json!({"cpu": {"idle": 0, "shares": 2}}), &[("cpu.idle", "0"), ("cpu.weight", "1")]);
        expect(json!({"pids": {"limit": 0}, "cpu": {"idle": 1}}), &[("cpu.idle", "1")]);
    }

    #[test]
    fn memory_is_checked_only_where_that_is_asked_for() {
        let checked = |memory: Value| {
            let resources = serde_json::from_value(json!({"memory": memory})).unwrap();
            Limits::read(&resources).unwrap().checked_memory_bytes
        };
        assert_eq!(checked(json!({"limit": 7, "checkBeforeUpdate": true})), Some(7));
        assert_eq!(checked(json!({"limit": 7})), None);
        assert_eq!(checked(json!({"limit": -1, "checkBeforeUpdate": true})), None);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (resources, field) in [
            (json!({"blockIO": {"leafWeight": 10}}), "linux.resources.blockIO.leafWeight"),
            (json!({"network": {"classID": 1}}), "linux.resources.network.classID"),
            (
                json!({"network": {"priorities": [{"name": "eth0", "priority": 1}]}}),
                "linux.resources.network.priorities",
            ),
            (json!({"memory": {"kernel": 1}}), "linux.resources.memory.kernel"),
            (json!({"memory": {"kernelTCP": 1}}), "linux.resources.memory.kernelTCP"),
            (json!({"memory": {"swappiness": 1}}), "linux.resources.memory.swappiness"),
            (
                json!({"memory": {"disableOOMKiller": true}}),
                "linux.resources.memory.disableOOMKiller",
            ),
            (json!({"cpu": {"realtimeRuntime": 1}}), "linux.resources.cpu.realtimeRuntime"),
        ] {
            assert_eq!(read(resources), Err(SpecError::unsupported(field)));
        }
    }

    #[test]
    fn values_that_make_no_sense_are_invalid() {
        for resources in [
            json!({"memory": {"limit": -2}}),
            json!({"memory": {"swap": 10}}),
            json!({"memory": {"limit": 10, "swap": 5}}),
            json!({"memory": {"limit": 10, "swap": i64::MIN}}),
            json!({"unified": {"../x": "1"}}),
            json!({"unified": {"cgroup.procs": "1"}}),
            json!({"unified": {"nodot": "1"}}),
            json!({"cpu": {"idle": 2}}),
            json!({"cpu": {"idle": 1, "shares": 512}}),
            json!({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}),
            json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}),
            json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}),
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": -2}]}),
            json!({"rdma": {"a b": {"hcaHandles": 1}}}),
        ] {
            assert!(matches!(read(resources), Err(SpecError::Invalid { .. })));
        }
    }
}
