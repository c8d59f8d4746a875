//! What the container's processes may do to the guest.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Rights of a container's processes. The default is docker's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Everything of the guest, and nothing of the host.
    pub privileged: bool,
    /// `CAP_*`, or `ALL`.
    pub cap_add: Vec<String>,
    /// `CAP_*`, or `ALL`.
    pub cap_drop: Vec<String>,
    /// `--security-opt`, as typed, for `inspect`.
    pub options: Vec<String>,
    /// Which system calls there are.
    pub seccomp: Seccomp,
    /// Set-uid programs and file capabilities give nothing.
    pub no_new_privileges: bool,
    /// Profile of AppArmor; empty for none.
    pub apparmor_profile: String,
    /// Label of SELinux; empty for none.
    pub selinux_label: String,
    /// Nothing below /proc and /sys is masked or read-only.
    pub system_paths_unconfined: bool,
    /// Devices of the guest beside docker's default ones.
    pub devices: Vec<Device>,
    /// Rules of the device controller: `c 10:200 rwm`.
    pub device_rules: Vec<String>,
}

/// `--security-opt seccomp=`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The guest agent's profile, which is docker's.
    #[default]
    Builtin,
    /// Every system call.
    Unconfined,
    /// A profile as docker or the runtime-spec has it.
    Profile(Value),
}

/// A device of the guest, by the name it has there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// In the guest.
    pub source: String,
    /// In the container.
    pub path: String,
    /// Of `rwm`.
    pub access: String,
}
