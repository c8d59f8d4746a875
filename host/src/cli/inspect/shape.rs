//! `HostConfig`, `Config` and `Mounts` of docker's `inspect`. What was not asked for is what docker
//! prints for it: null for lists, 0 for limits, an empty word for modes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::engine::record::{Config, Device, Rlimit, Seccomp, TmpfsMount};
use crate::engine::spec::{DEFAULT_SHM_BYTES, MASKED_PATHS, READONLY_PATHS};

/// docker's null for an empty list.
fn list(words: &[String]) -> Value {
    if words.is_empty() { Value::Null } else { json!(words) }
}

fn map(entries: &BTreeMap<String, String>) -> Value {
    if entries.is_empty() { Value::Null } else { json!(entries) }
}

/// `HostConfig`.
pub fn host_config(config: &Config) -> Value {
    let mut shape = json!({
        "AutoRemove": config.auto_remove,
        "ReadonlyRootfs": config.filesystem.read_only,
        "Tmpfs": config.filesystem.tmpfs.iter()
            .map(|(path, options)| (path.clone(), options.join(",")))
            .collect::<BTreeMap<_, _>>(),
        "Mounts": config.filesystem.tmpfs_mounts.iter().map(tmpfs_mount).collect::<Vec<_>>(),
        "ShmSize": match config.filesystem.shm_bytes { 0 => DEFAULT_SHM_BYTES, bytes => bytes },
        "Ulimits": config.process.rlimits.iter().map(ulimit).collect::<Vec<_>>(),
        "OomScoreAdj": config.process.oom_score_adj,
        "GroupAdd": list(&config.process.groups),
    });
    for part in [limits(config), rights(config), surroundings(config)] {
        if let (Some(shape), Value::Object(part)) = (shape.as_object_mut(), part) {
            shape.extend(part);
        }
    }
    shape
}

fn limits(config: &Config) -> Value {
    let resources = &config.resources;
    json!({
        "Memory": resources.memory_bytes,
        "MemorySwap": swap(config),
        "MemoryReservation": resources.memory_reservation_bytes,
        "MemorySwappiness": null,
        "OomKillDisable": null,
        "NanoCpus": resources.milli_cpus * 1_000_000,
        "CpuShares": resources.cpu_shares,
        "CpuQuota": resources.cpu_quota_us,
        "CpuPeriod": resources.cpu_period_us,
        "CpusetCpus": resources.cpuset_cpus,
        "CpusetMems": resources.cpuset_mems,
        "PidsLimit": match resources.pids_limit { 0 => Value::Null, limit => json!(limit) },
        "BlkioWeight": resources.blkio_weight,
    })
}

/// A memory limit without a word on swap allows as much again.
fn swap(config: &Config) -> Value {
    match config.resources.memory_swap_bytes {
        0 => json!(config.resources.memory_bytes.saturating_mul(2)),
        bytes => json!(bytes),
    }
}

fn rights(config: &Config) -> Value {
    let security = &config.security;
    let open = security.is_open();
    let paths = |paths: &[&str]| if open { json!([]) } else { json!(paths) };
    json!({
        "Privileged": security.privileged,
        "CapAdd": list(&security.cap_add),
        "CapDrop": list(&security.cap_drop),
        "SecurityOpt": security_options(config),
        "Devices": security.devices.iter().map(device).collect::<Vec<_>>(),
        "DeviceCgroupRules": list(&security.device_rules),
        "MaskedPaths": paths(&MASKED_PATHS),
        "ReadonlyPaths": paths(&READONLY_PATHS),
    })
}

/// docker shows a seccomp profile's text in place of its file's name.
fn security_options(config: &Config) -> Value {
    let shown = |option: &String| match &config.security.seccomp {
        Seccomp::Profile(profile) if option.starts_with("seccomp") => format!("seccomp={profile}"),
        _ => option.clone(),
    };
    list(&config.security.options.iter().map(shown).collect::<Vec<_>>())
}

fn surroundings(config: &Config) -> Value {
    let names = &config.surroundings;
    json!({
        "NetworkMode": "none",
        "IpcMode": names.ipc.as_str(),
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
        "CgroupnsMode": "private",
        "Dns": names.dns,
        "DnsSearch": names.dns_search,
        "DnsOptions": names.dns_options,
        "ExtraHosts": list(&names.extra_hosts),
        "Sysctls": map(&names.sysctls),
        "Annotations": map(&config.notes.annotations),
    })
}

/// `Config`.
pub fn config(config: &Config) -> Value {
    let process = &config.process;
    let mut shape = json!({
        "Hostname": config.hostname,
        "Domainname": config.surroundings.domainname,
        "User": process.user,
        "Tty": process.terminal,
        "OpenStdin": process.stdin_open,
        "StdinOnce": process.stdin_once,
        "Env": process.env,
        "Cmd": process.args,
        "Image": config.image.reference,
        "WorkingDir": process.cwd,
        "Labels": config.notes.labels,
        "StopSignal": process.stop_signal.to_string(),
    });
    if let Some(seconds) = process.stop_timeout_s {
        shape["StopTimeout"] = json!(seconds);
    }
    shape
}

/// `Mounts`: docker counts those of `--mount`, and not those of `--tmpfs`.
pub fn mounts(config: &Config) -> Value {
    let mount = |mount: &TmpfsMount| {
        json!({
            "Type": "tmpfs", "Source": "", "Destination": mount.target, "Mode": "",
            "RW": !mount.read_only, "Propagation": "",
        })
    };
    config.filesystem.tmpfs_mounts.iter().map(mount).collect()
}

fn tmpfs_mount(mount: &TmpfsMount) -> Value {
    let mut shape = json!({ "Type": "tmpfs", "Target": mount.target });
    if mount.read_only {
        shape["ReadOnly"] = json!(true);
    }
    for (field, value) in [("SizeBytes", mount.size_bytes), ("Mode", u64::from(mount.mode))] {
        if value > 0 {
            shape["TmpfsOptions"][field] = json!(value);
        }
    }
    shape
}

fn ulimit(limit: &Rlimit) -> Value {
    json!({ "Name": limit.name, "Soft": limit.soft, "Hard": limit.hard })
}

fn device(device: &Device) -> Value {
    json!({
        "PathOnHost": device.source, "PathInContainer": device.path,
        "CgroupPermissions": device.access,
    })
}
