//! A further process of a running container: born in its pid namespace and cgroup, it enters the
//! rest.

use std::{convert::Infallible, os::fd::OwnedFd};

use nix::sched::setns;

use super::{
    StageError, enter, labels,
    link::Link,
    plan::{Namespaces, ProcessPlan},
    process::{self, Gate},
    scheduling,
    terminal::Terminal,
};

/// Enters, reports, and becomes the user's process.
///
/// # Errors
/// [`StageError`]; on success there is no return.
pub fn run(
    link: &Link,
    namespaces: Namespaces,
    plan: &ProcessPlan,
    first_process: OwnedFd,
) -> Result<Infallible, StageError> {
    // While the guest's own /proc is in reach.
    process::set_oom_score(plan)?;
    labels::set(&plan.labels)?;
    scheduling::run_on(plan.scheduling.initial_cpus.as_ref(), "set the initial CPUs")?;
    setns(&first_process, namespaces.flags()).map_err(StageError::step("enter namespaces"))?;
    drop(first_process);
    // A user namespace has limits that only the guest's root can set: the agent does it meanwhile.
    let gate = if namespaces.user { Gate::Wait(None) } else { Gate::Open };
    if namespaces.user {
        enter::become_root()?;
    }
    let terminal = match plan.terminal {
        Some(_) => Some(Terminal::open_here()?),
        None => None,
    };
    scheduling::run_on(plan.scheduling.final_cpus.as_ref(), "set the final CPUs")?;
    process::become_process(link, plan, terminal, gate)
}
