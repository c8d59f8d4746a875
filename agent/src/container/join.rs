//! A further process of a running container: born in its pid namespace and cgroup, it enters the rest.

use std::{convert::Infallible, os::fd::OwnedFd};

use nix::sched::setns;

use super::{
    StageError, labels,
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
    let terminal = match plan.terminal {
        Some(_) => Some(Terminal::open_here()?),
        None => None,
    };
    scheduling::run_on(plan.scheduling.final_cpus.as_ref(), "set the final CPUs")?;
    process::become_process(link, plan, terminal, Gate::Open)
}
