//! `process.scheduler` and `process.ioPriority`, which the agent sets where a process in a user
//! namespace may not, and `process.execCPUAffinity`.

use nix::{errno::Errno, unistd::Pid};

use super::{
    StageError,
    plan::{Cpus, Scheduling},
};
use crate::sys::scheduling::{set_affinity, set_attributes, set_io_priority};

/// Where an exec runs from now on.
///
/// # Errors
/// [`StageError::Step`], for CPUs that the container has not.
pub fn run_on(cpus: Option<&Cpus>, step: &'static str) -> Result<(), StageError> {
    cpus.map_or(Ok(()), |cpus| set_affinity(cpus.words()).map_err(StageError::step(step)))
}

/// Sets policy and priorities of a process that has one thread. Most of them need root's
/// capabilities.
///
/// # Errors
/// [`StageError`].
pub fn set(process: Pid, scheduling: &Scheduling) -> Result<(), StageError> {
    if let Some(attributes) = &scheduling.attributes {
        set_attributes(process, attributes).map_err(|errno| match errno {
            Errno::EOPNOTSUPP => {
                let (field, option) = ("process.scheduler.flags", "CONFIG_UCLAMP_TASK");
                StageError::Kernel { field, option }
            }
            errno => StageError::step("set the scheduler")(errno),
        })?;
    }
    if let Some(value) = scheduling.io_priority {
        set_io_priority(process, value).map_err(StageError::step("set the I/O priority"))?;
    }
    Ok(())
}
