//! A container's first process, from its birth in a new pid namespace and in its cgroup to the exec.

use std::{convert::Infallible, fs, io::Write, os::fd::OwnedFd, path::Path};

use nix::{errno::Errno, sched::unshare};

use super::{
    StageError, hooks, labels,
    link::Link,
    plan::InitPlan,
    process::{self, Gate},
    rootfs,
};
use crate::{network, sys};

/// Sets the container up, reports, waits, and becomes the user's process.
///
/// # Errors
/// [`StageError`]; on success there is no return.
pub fn run(
    link: &Link,
    plan: &InitPlan,
    cgroup: &str,
    root: OwnedFd,
) -> Result<Infallible, StageError> {
    unshare(plan.namespaces.flags()).map_err(StageError::step("make namespaces"))?;
    // Everything that writes below /proc does it while the guest's own /proc is in reach: the
    // container's may be anything.
    process::set_oom_score(&plan.process)?;
    labels::set(&plan.process.labels)?;
    if plan.namespaces.network {
        network::raise_loopback().map_err(StageError::step("raise loopback"))?;
    }
    set_names(plan)?;
    set_sysctl(plan)?;
    let before_root = || match &plan.hooks {
        Some(hooks) => hooks::before_root(link, hooks),
        None => Ok(()),
    };
    let terminal = rootfs::enter(plan, cgroup, root, before_root)?;
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

fn set_sysctl(plan: &InitPlan) -> Result<(), StageError> {
    for (name, value) in &plan.sysctl {
        let path = Path::new("/proc/sys").join(name);
        let write = || fs::OpenOptions::new().write(true).open(&path)?.write_all(value.as_bytes());
        write().map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            StageError::path("write sysctl", path.clone())(errno)
        })?;
    }
    Ok(())
}
