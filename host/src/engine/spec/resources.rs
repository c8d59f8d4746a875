//! `linux.resources` of the runtime-spec.

use serde_json::{Value, json};

use super::devices;
use crate::engine::record::{Resources, Security};

/// Period of the CPU quota, microseconds. docker's.
pub const CPU_PERIOD_US: u64 = 100_000;

/// All limits of a container, those on devices among them.
pub fn container_resources(resources: &Resources, security: &Security) -> Value {
    let mut spec = limits(resources);
    if let Some(rules) = devices::rules(security) {
        spec["devices"] = rules;
    }
    spec
}

/// What can change while the container runs. Nothing that was not asked for.
#[must_use]
pub fn limits(resources: &Resources) -> Value {
    let mut spec = json!({});
    let mut set = |group: &str, field: &str, value: Value| spec[group][field] = value;
    if resources.memory_bytes > 0 {
        set("memory", "limit", json!(resources.memory_bytes));
    }
    // As docker: as much swap again without a word, which a guest without swap turns into none.
    if resources.memory_swap_bytes != 0 {
        set("memory", "swap", json!(resources.memory_swap_bytes));
    }
    if resources.memory_reservation_bytes > 0 {
        set("memory", "reservation", json!(resources.memory_reservation_bytes));
    }
    if resources.milli_cpus > 0 {
        set("cpu", "quota", json!(resources.milli_cpus * CPU_PERIOD_US / 1000));
        set("cpu", "period", json!(CPU_PERIOD_US));
    }
    if resources.cpu_quota_us != 0 {
        set("cpu", "quota", json!(resources.cpu_quota_us));
    }
    if resources.cpu_period_us > 0 {
        set("cpu", "period", json!(resources.cpu_period_us));
    }
    if resources.cpu_shares > 0 {
        set("cpu", "shares", json!(resources.cpu_shares));
    }
    if !resources.cpuset_cpus.is_empty() {
        set("cpu", "cpus", json!(resources.cpuset_cpus));
    }
    if !resources.cpuset_mems.is_empty() {
        set("cpu", "mems", json!(resources.cpuset_mems));
    }
    if resources.pids_limit != 0 {
        set("pids", "limit", json!(resources.pids_limit));
    }
    if resources.blkio_weight > 0 {
        set("blockIO", "weight", json!(resources.blkio_weight));
    }
    spec
}
