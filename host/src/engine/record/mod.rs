//! What is known of a container, as it stands on disk.
//!
//! ```text
//! (nothing) --create--> Created --start--> Starting --> Running --exit--> Exited
//!                          ^                  |                             |
//!                          +-- never ran -----+            start <----------+
//! ```
//!
//! [`Config`] is replaced by `rename` and `update` alone; [`Status`] by whoever owns the container
//! at that moment: its monitor while that lives, the finder of a dead monitor after it. What a
//! record of an older husk lacks is its default.

mod limits;
mod security;
mod surroundings;

pub use limits::{Resources, Rlimit};
pub use security::{Device, Seccomp, Security};
pub use surroundings::{Ipc, Surroundings};

use std::collections::BTreeMap;

use husk_protocols::id::ContainerId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What the user asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// 64 hex digits.
    pub id: ContainerId,
    /// Unique on this host.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The image, as the user named it and as the store knows it.
    pub image: ImageUse,
    /// What runs.
    pub process: Process,
    /// How much of the machine it may have.
    pub resources: Resources,
    /// What it sees as its file system.
    pub filesystem: Filesystem,
    /// What it is called inside.
    pub hostname: String,
    /// Removed as soon as it has ended.
    pub auto_remove: bool,
    /// `--hypervisor`.
    pub hypervisor: String,
    /// What its processes may do.
    #[serde(default)]
    pub security: Security,
    /// What it takes for its machine and network.
    #[serde(default)]
    pub surroundings: Surroundings,
    /// What people and programs note on it.
    #[serde(default)]
    pub notes: Notes,
}

/// Words that mean nothing to husk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// The image's, and `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`; they are in the OCI spec.
    pub annotations: BTreeMap<String, String>,
}

/// The image of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageUse {
    /// As typed.
    pub reference: String,
    /// sha256 of the image's configuration.
    pub id: String,
    /// The EROFS file.
    pub disk: std::path::PathBuf,
}

/// The container's first process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Entry point and command, joined. Never empty.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// As `-u` takes it; empty is root.
    pub user: String,
    /// Absolute.
    pub cwd: String,
    /// A terminal instead of three pipes.
    pub terminal: bool,
    /// stdin stays open for clients to attach to.
    pub stdin_open: bool,
    /// stdin ends with the first client that was attached to it.
    pub stdin_once: bool,
    /// Signal that asks it to end.
    pub stop_signal: i32,
    /// Seconds until SIGKILL follows; negative is never.
    #[serde(default)]
    pub stop_timeout_s: Option<i64>,
    /// Groups beside the user's own, by name or number.
    #[serde(default)]
    pub groups: Vec<String>,
    /// At most one of each name.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// How gladly the kernel takes it for its memory, -1000 to 1000.
    #[serde(default)]
    pub oom_score_adj: i32,
}

/// The container's file system besides its image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Filesystem {
    /// The root cannot be written.
    pub read_only: bool,
    /// Destination to tmpfs options.
    pub tmpfs: BTreeMap<String, Vec<String>>,
    /// The same by `--mount`.
    #[serde(default)]
    pub tmpfs_mounts: Vec<TmpfsMount>,
    /// Size of /dev/shm; 0 is docker's.
    #[serde(default)]
    pub shm_bytes: u64,
}

/// `--mount type=tmpfs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Absolute.
    pub target: String,
    /// 0 is no limit but the guest's memory.
    pub size_bytes: u64,
    /// Permission bits; 0 is the kernel's default.
    pub mode: u32,
    /// Cannot be written.
    pub read_only: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It has never run, or could not be started.
    Created,
    /// Its VM is coming up.
    Starting,
    /// Its first process runs.
    Running,
    /// Its first process has ended.
    Exited,
}

impl Phase {
    /// docker's word, in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

/// What changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Where it is.
    pub phase: Phase,
    /// Exit code of the last run; 0 before the first.
    pub exit_code: i32,
    /// Why it could not start, or what ended it other than its own exit.
    pub error: String,
    /// The guest kernel killed it for memory.
    pub oom_killed: bool,
    /// Start of the last run.
    pub started: Option<Timestamp>,
    /// End of the last run.
    pub finished: Option<Timestamp>,
    /// The monitor's pid on the host; 0 when there is none.
    pub monitor_pid: i32,
    /// The VM process's pid on the host; 0 when there is none.
    pub vm_pid: i32,
    /// Which hypervisor was chosen, and why.
    pub hypervisor: Option<HypervisorChoice>,
    /// Its processes are frozen.
    #[serde(default)]
    pub paused: bool,
}

/// The outcome of `--hypervisor`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HypervisorChoice {
    /// Its name.
    pub name: String,
    /// What executes guest code: `kvm` or `tcg`.
    pub accelerator: String,
    /// Why that one.
    pub reason: String,
    /// The layers of the VMM's jail and how they stand, for people; empty where there is none.
    #[serde(default)]
    pub jail: BTreeMap<String, String>,
}

impl Status {
    /// Before the first start.
    #[must_use]
    pub fn created() -> Self {
        Self {
            phase: Phase::Created,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started: None,
            finished: None,
            monitor_pid: 0,
            vm_pid: 0,
            hypervisor: None,
            paused: false,
        }
    }

    /// docker's word for the state, in lower case.
    #[must_use]
    pub fn state(&self) -> &'static str {
        if self.paused { "paused" } else { self.phase.as_str() }
    }

    /// Whether a monitor should be there.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running)
    }
}
