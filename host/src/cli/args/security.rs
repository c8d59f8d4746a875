//! Flags for what a container may do to its guest.

use clap::Args;

use crate::cli::values::{devices, security};
use crate::engine::record::Device;

/// Rights of `run` and `create`.
#[derive(Debug, Default, Args)]
pub struct SecurityFlags {
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = security::capability)]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = security::capability)]
    pub cap_drop: Vec<String>,
    /// Everything of the guest: all capabilities and devices, no filters; nothing of the host
    #[arg(long)]
    pub privileged: bool,
    /// seccomp=PROFILE.json|unconfined|builtin, no-new-privileges[=BOOL], systempaths=unconfined,
    /// apparmor=PROFILE, label=...
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Add a group, by name or number
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// A device of the guest, like /dev/fuse or /dev/net/tun
    #[arg(long, value_name = "PATH[:PATH][:rwm]", value_parser = devices::device)]
    pub device: Vec<Device>,
    /// Allow a kind of device of the guest
    #[arg(long, value_name = "RULE", value_parser = devices::rule)]
    pub device_cgroup_rule: Vec<String>,
    /// User namespace: host is the guest's, the only one yet
    #[arg(long, value_name = "host", value_parser = security::userns)]
    pub userns: Option<String>,
}
