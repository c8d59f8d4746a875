//! What the container takes for the machine and the network around it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names, name servers, kernel settings. Empty is docker's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Surroundings {
    /// NIS domain name.
    pub domainname: String,
    /// Name servers.
    pub dns: Vec<String>,
    /// Domains that names are completed with.
    pub dns_search: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
    /// `name:address`, for /etc/hosts.
    pub extra_hosts: Vec<String>,
    /// Kernel settings of the container's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Kernel settings of the guest, made before the container.
    pub guest_sysctls: BTreeMap<String, String>,
    /// Words for the command line of the guest's kernel.
    pub kernel_args: Vec<String>,
    /// Words of `--ipc`.
    pub ipc: Ipc,
}

/// `--ipc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipc {
    /// A namespace of its own, with /dev/shm.
    #[default]
    Private,
    /// A namespace of its own, without /dev/shm.
    None,
}

impl Ipc {
    /// docker's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::None => "none",
        }
    }
}
