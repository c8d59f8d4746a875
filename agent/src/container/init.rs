//! A container's first process, from its birth in a new pid namespace and in its cgroup to the
//! exec.

use std::{convert::Infallible, os::fd::OwnedFd, path::Path};

use nix::sched::unshare;

use super::{
    StageError,
    enter::{self, GuestProc},
    hooks, labels,
    link::Link,
    plan::{InitPlan, Kind},
    process::{self, Gate},
    rootfs,
    terminal::Terminal,
};
use crate::{network, sys};

/// What a first process is born with.
pub struct Inherited {
    /// The root's mount; none in a mount namespace that is joined.
    pub root: Option<OwnedFd>,
    /// What [`InitPlan::entered`] says, in that order.
    pub namespaces: Vec<(Kind, OwnedFd)>,
}

/// Sets the container up, reports, waits, and becomes the user's process.
///
/// # Errors
/// [`StageError`]; on success there is no return.
pub fn run(
    link: &Link,
    plan: &InitPlan,
    cgroup: &str,
    inherited: Inherited,
) -> Result<Infallible, StageError> {
    // Everything that writes below /proc does it through the guest's own: the container's may be
    // anything.
    process::set_oom_score(&plan.process)?;
    labels::set(&plan.process.labels)?;
    let own_time = plan.is_new(Kind::Time);
    let proc = match own_time || !plan.sysctl.is_empty() {
        true => Some(GuestProc::open()?),
        false => None,
    };
    enter::join(inherited.namespaces)?;
    unshare(plan.unshared()).map_err(StageError::step("make namespaces"))?;
    if plan.is_new(Kind::Network) {
        network::raise_loopback().map_err(StageError::step("raise loopback"))?;
    }
    set_names(plan)?;
    if let Some(proc) = proc {
        if own_time {
            enter::enter_new_time(&proc, &plan.time_offsets)?;
        }
        set_sysctl(&proc, plan)?;
    }
    let before_root = || match &plan.hooks {
        Some(hooks) => hooks::before_root(link, hooks),
        None => Ok(()),
    };
    let terminal = match inherited.root {
        Some(root) => rootfs::enter(plan, cgroup, root, before_root)?,
        None => {
            before_root()?;
            match plan.process.terminal {
                Some(_) => Some(Terminal::open_here()?),
                None => None,
            }
        }
    };
    process::become_process(link, &plan.process, terminal, Gate::Wait(plan.hooks.as_ref()))
}

fn set_names(plan: &InitPlan) -> Result<(), StageError> {
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name).map_err(StageError::step("set hostname"))?;
    }
    if let Some(name) = &plan.domainname {
        sys::process::set_domain_name(name).map_err(StageError::step("set domainname"))?;
    }
    Ok(())
}

fn set_sysctl(proc: &GuestProc, plan: &InitPlan) -> Result<(), StageError> {
    for (name, value) in &plan.sysctl {
        let path = Path::new("sys").join(name);
        proc.write(&path.to_string_lossy(), value)
            .map_err(StageError::path("write sysctl", Path::new("/proc").join(&path)))?;
    }
    Ok(())
}
