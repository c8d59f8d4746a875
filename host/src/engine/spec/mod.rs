//! From what the user asked for to `config.json` of the OCI runtime-spec. Pure: reads no file.
//!
//! The defaults are docker's: fourteen capabilities, masked and read-only paths below /proc and
//! /sys, 64 MiB of /dev/shm.

pub mod capabilities;
pub mod devices;
mod files;
mod mounts;
mod process;
mod resources;
pub mod seccomp;
mod words;

pub use files::{SandboxFile, sandbox_files};
pub use mounts::DEFAULT_SHM_BYTES;
pub use process::{Privilege, process_spec};
pub use resources::limits;
pub use words::with_flag;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::error::Error;
use super::record::{Config, Seccomp, Security};

/// Runtime-spec that this husk writes.
const OCI_VERSION: &str = "1.2.0";

/// What nobody may read.
pub const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/scsi",
    "/sys/firmware",
];

/// What nobody may write.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Files of the sandbox that are bound over the image's.
const SANDBOX_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// docker's settings of a network namespace: whoever is not root may use low ports and ping.
const NETWORK_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// `config.json` for a container; `window` as for [`process_spec`].
///
/// # Errors
/// [`Error::Invalid`] for a seccomp profile that is none.
pub fn container_spec(config: &Config, window: Option<(u16, u16)>) -> Result<Value, Error> {
    let security = &config.security;
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "hostname": config.hostname,
        "root": { "path": "rootfs", "readonly": config.filesystem.read_only },
        "process": process_spec(&config.process, security, Privilege::Container, window),
        "mounts": mounts::mounts(config),
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "network" }, { "type": "cgroup" },
            ],
            "resources": resources::container_resources(&config.resources, security),
            "sysctl": sysctls(config),
        },
    });
    let linux = &mut spec["linux"];
    if !security.is_open() {
        linux["maskedPaths"] = json!(MASKED_PATHS);
        linux["readonlyPaths"] = json!(READONLY_PATHS);
    }
    if let Some(filter) = seccomp_filter(security)? {
        linux["seccomp"] = filter;
    }
    let nodes = devices::nodes(security);
    if !nodes.is_empty() && !security.privileged {
        linux["devices"] = Value::from(nodes);
    }
    if !config.surroundings.domainname.is_empty() {
        spec["domainname"] = json!(config.surroundings.domainname);
    }
    if !config.notes.annotations.is_empty() {
        spec["annotations"] = json!(config.notes.annotations);
    }
    Ok(spec)
}

impl Security {
    /// Whether nothing below /proc and /sys is hidden or guarded.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.privileged || self.system_paths_unconfined
    }
}

/// `None` leaves it to the agent, whose own profile is docker's.
fn seccomp_filter(security: &Security) -> Result<Option<Value>, Error> {
    match &security.seccomp {
        Seccomp::Builtin if !security.privileged => Ok(None),
        Seccomp::Builtin | Seccomp::Unconfined => {
            Ok(Some(json!({ "defaultAction": "SCMP_ACT_ALLOW" })))
        }
        Seccomp::Profile(profile) => {
            let filter = seccomp::filter(profile, &capabilities::effective(security));
            let invalid = |reason| Error::Invalid(format!("seccomp profile: {reason}"));
            Ok(Some(filter.map_err(invalid)?))
        }
    }
}

fn sysctls(config: &Config) -> BTreeMap<&str, &str> {
    let wished = config.surroundings.sysctls.iter();
    let wished = wished.map(|(name, value)| (name.as_str(), value.as_str()));
    NETWORK_SYSCTLS.into_iter().chain(wished).collect()
}

#[cfg(test)]
mod tests;
