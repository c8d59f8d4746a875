//! Flags that limit a container, for `run`, `create` and, most of them, `update`.

use clap::Args;

use crate::cli::values::{self, limits};
use crate::engine::record::Rlimit;

/// Limits of `run`, `create` and `update`.
#[derive(Debug, Default, Args)]
pub struct LimitFlags {
    /// Memory of the workload; the VM's own comes on top
    #[arg(short, long, value_name = "SIZE", value_parser = values::bytes)]
    pub memory: Option<u64>,
    /// Memory and swap together; -1 is no limit
    #[arg(long, value_name = "SIZE", value_parser = limits::swap, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// Memory that is taken from the container last
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    pub memory_reservation: Option<u64>,
    /// CPU time per time
    #[arg(long, value_name = "NUMBER", value_parser = values::milli_cpus)]
    pub cpus: Option<u64>,
    /// Weight of its CPU time against others
    #[arg(short, long, value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// CPU time per period, microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// That period, microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// CPUs to run on, like 0-2 or 0,1: the VM has as many
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to allocate on; a VM has 0 alone
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// Weight of its disk traffic, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
}

/// Limits of a container's processes.
#[derive(Debug, Default, Args)]
pub struct ProcessLimitFlags {
    /// Limit of each process, like nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = limits::ulimit)]
    pub ulimit: Vec<Rlimit>,
    /// How gladly the guest's kernel kills it for memory, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub oom_score_adj: Option<i32>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    pub shm_size: Option<u64>,
}
