//! When and where processes run, and how their reads and writes are ordered: sched_setattr(2),
//! sched_setaffinity(2), ioprio_set(2).
#![allow(unsafe_code)]

use nix::{errno::Errno, unistd::Pid};
use serde::{Deserialize, Serialize};

use super::Result;

/// linux/ioprio.h.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// `SCHED_ATTR_SIZE_VER1`, linux/sched/types.h.
const ATTRIBUTES_SIZE: u32 = 56;

/// `struct sched_attr`, linux/sched/types.h.
#[repr(C)]
struct KernelAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// Policy and parameters, of sched_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// 1 to 99 for real-time policies, 0 for others.
    pub priority: u32,
    /// Nanoseconds of each period, for the deadline policy, as are the next two.
    pub runtime_ns: u64,
    /// Since the beginning of a period.
    pub deadline_ns: u64,
    /// Until the next one.
    pub period_ns: u64,
}

/// The caller, where a process is asked for.
pub const CALLER: Pid = Pid::from_raw(0);

/// Sets policy and parameters of a process of one thread.
///
/// # Errors
/// As sched_setattr(2): `EINVAL`, `EPERM`, `EBUSY` when the deadline cannot be kept, `EOPNOTSUPP`
/// for utilization clamps in a kernel without them.
pub fn set_attributes(process: Pid, attributes: &Attributes) -> Result<()> {
    let attributes = KernelAttributes {
        size: ATTRIBUTES_SIZE,
        policy: attributes.policy,
        flags: attributes.flags,
        nice: attributes.nice,
        priority: attributes.priority,
        runtime: attributes.runtime_ns,
        deadline: attributes.deadline_ns,
        period: attributes.period_ns,
        util_min: 0,
        util_max: 0,
    };
    // SAFETY: the structure is laid out as the kernel has it and says its size.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_setattr, process.as_raw(), &raw const attributes, 0)
    };
    Errno::result(result).map(drop)
}

/// Sets the CPUs that the caller may run on: bit n of the set, counted from the first word's lowest
/// bit, is CPU n.
///
/// # Errors
/// `EINVAL` when the cpuset of the caller has none of them.
pub fn set_affinity(cpus: &[u64]) -> Result<()> {
    // SAFETY: pointer and length in bytes are those of one slice; pid 0 is the caller.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Sets the priority of a process's input and output: class and level as `IOPRIO_PRIO_VALUE` has
/// them.
///
/// # Errors
/// As ioprio_set(2).
pub fn set_io_priority(process: Pid, value: u16) -> Result<()> {
    let (pid, value) = (process.as_raw(), libc::c_int::from(value));
    // SAFETY: three numbers by value.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid, value) };
    Errno::result(result).map(drop)
}
