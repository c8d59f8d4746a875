//! `linux.resources` as the files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) and what to
//! write there. Pure.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::spec::{SpecError, has, refuse};

/// A file of a cgroup folder, and its content.
pub type Setting = (String, String);

const FIELD: &str = "linux.resources";

/// Turns resources into settings, in the order they must be written.
///
/// # Errors
/// [`SpecError`] with the field's name.
pub fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, SpecError> {
    refuse(
        "linux.resources.",
        &[
            ("devices", has(resources.devices())),
            ("blockIO", resources.block_io().is_some()),
            ("hugepageLimits", has(resources.hugepage_limits())),
            ("network", resources.network().is_some()),
            ("rdma", resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty())),
        ],
    )?;
    let mut settings = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut settings)?;
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut settings)?;
    }
    if let Some(pids) = resources.pids() {
        settings.push(pids_setting(pids));
    }
    if let Some(unified) = resources.unified() {
        let mut unified: Vec<_> = unified.iter().collect();
        unified.sort();
        for (file, value) in unified {
            settings.push(unified_setting(file, value)?);
        }
    }
    Ok(settings)
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
    if let Some(idle) = cpu.idle() {
        push("cpu.idle", idle.to_string());
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
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

/// From cgroup v1's shares (2 to 262144, default 1024) to v2's weight (1 to 10000), linearly, as the
/// runtime-spec's users expect.
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
            ("kernel", kernel.is_some_and(|value| value != 0)),
            ("kernelTCP", kernel_tcp.is_some_and(|value| value != 0)),
            ("swappiness", memory.swappiness().is_some()),
            ("disableOOMKiller", memory.disable_oom_killer() == Some(true)),
            ("useHierarchy", memory.use_hierarchy() == Some(false)),
        ],
    )?;
    let limit = memory.limit().filter(|&limit| limit != 0);
    if let Some(limit) = limit {
        settings.push(("memory.max".to_owned(), bytes("memory.limit", limit)?));
    }
    if let Some(swap) = memory.swap().filter(|&swap| swap != 0) {
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

fn pids_setting(pids: &LinuxPids) -> Setting {
    let limit = pids.limit();
    let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
    ("pids.max".to_owned(), value)
}

fn unified_setting(file: &str, value: &str) -> Result<Setting, SpecError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let controller = file.split('.').next().unwrap_or_default();
    // "cgroup." files move processes and enable controllers: not resources.
    if !file.chars().all(allowed) || !file.contains('.') || matches!(controller, "" | "cgroup") {
        let name: String = file.chars().take(80).collect();
        let reason = format!("{name:?} is no resource of a cgroup");
        return Err(SpecError::invalid(format!("{FIELD}.unified"), reason));
    }
    Ok((file.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(resources: Value) -> Result<Vec<Setting>, SpecError> {
        settings(&serde_json::from_value(resources).unwrap())
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
    fn what_is_not_done_is_refused_by_name() {
        for (resources, field) in [
            (json!({"devices": [{"allow": false}]}), "linux.resources.devices"),
            (json!({"blockIO": {"weight": 10}}), "linux.resources.blockIO"),
            (json!({"network": {"classID": 1}}), "linux.resources.network"),
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
        ] {
            assert!(matches!(read(resources), Err(SpecError::Invalid { .. })));
        }
    }
}
