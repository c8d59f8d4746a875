//! From the flags of `run` and `create` to what the engine is asked for.

use std::collections::BTreeMap;

use super::args::{Common, LimitFlags, ProcessFlags, SecurityFlags, SurroundingsFlags};
use super::failure::Failure;
use super::values::{self, limits, security};
use crate::engine::create::{ProcessWishes, Wishes};
use crate::engine::record::{Filesystem, Notes, Resources, Security, Surroundings};

/// Variables of a process, in order: files first.
pub fn env_of(flags: &ProcessFlags) -> Result<Vec<String>, Failure> {
    let mut env = Vec::new();
    for file in &flags.env_file {
        env.extend(values::env_file(file).map_err(Failure::new)?);
    }
    env.extend(flags.env.iter().map(|entry| values::env_entry(entry)));
    Ok(env)
}

/// Everything that was wished for.
pub fn wishes(
    common: &Common,
    image: &str,
    command: Vec<String>,
    detach: bool,
) -> Result<Wishes, Failure> {
    Ok(Wishes {
        image_reference: image.to_owned(),
        name: common.name.clone(),
        hostname: common.surroundings.hostname.clone(),
        process: process(common, command, detach)?,
        resources: resources(&common.limits),
        filesystem: Filesystem {
            read_only: common.filesystem.read_only,
            tmpfs: values::tmpfs(&common.filesystem.tmpfs),
            tmpfs_mounts: common.filesystem.mount.clone(),
            shm_bytes: common.process_limits.shm_size.unwrap_or(0),
        },
        security: rights(&common.security).map_err(Failure::new)?,
        surroundings: surroundings(&common.surroundings),
        notes: Notes {
            labels: values::labels(&common.notes.label, &common.notes.label_file)
                .map_err(Failure::new)?,
            annotations: common.notes.annotation.iter().cloned().collect(),
        },
        auto_remove: common.rm,
        hypervisor: common.hypervisor,
    })
}

fn process(common: &Common, command: Vec<String>, detach: bool) -> Result<ProcessWishes, Failure> {
    let flags = &common.process;
    Ok(ProcessWishes {
        command,
        entrypoint: common.entrypoint.clone(),
        env: env_of(flags)?,
        user: flags.user.clone(),
        workdir: flags.workdir.clone(),
        terminal: flags.tty,
        stdin_open: flags.interactive,
        stdin_once: flags.interactive && !detach,
        stop_signal: common.stop_signal.clone(),
        stop_timeout_s: common.stop_timeout,
        groups: common.security.group_add.clone(),
        rlimits: limits::last_of_each(&common.process_limits.ulimit),
        oom_score_adj: common.process_limits.oom_score_adj.unwrap_or(0),
    })
}

/// Limits as records have them.
pub fn resources(flags: &LimitFlags) -> Resources {
    Resources {
        memory_bytes: flags.memory.unwrap_or(0),
        memory_swap_bytes: flags.memory_swap.unwrap_or(0),
        memory_reservation_bytes: flags.memory_reservation.unwrap_or(0),
        milli_cpus: flags.cpus.unwrap_or(0),
        cpu_shares: flags.cpu_shares.unwrap_or(0),
        cpu_quota_us: flags.cpu_quota.unwrap_or(0),
        cpu_period_us: flags.cpu_period.unwrap_or(0),
        cpuset_cpus: flags.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: flags.cpuset_mems.clone().unwrap_or_default(),
        // docker's 0 and everything below is no limit.
        pids_limit: flags.pids_limit.map_or(0, |limit| if limit > 0 { limit } else { -1 }),
        blkio_weight: flags.blkio_weight.unwrap_or(0),
    }
}

fn rights(flags: &SecurityFlags) -> Result<Security, String> {
    let mut rights = Security {
        privileged: flags.privileged,
        cap_add: flags.cap_add.clone(),
        cap_drop: flags.cap_drop.clone(),
        devices: flags.device.clone(),
        device_rules: flags.device_cgroup_rule.clone(),
        ..Security::default()
    };
    flags.security_opt.iter().try_for_each(|text| security::option(text, &mut rights))?;
    Ok(rights)
}

fn surroundings(flags: &SurroundingsFlags) -> Surroundings {
    let settings = |pairs: &[(String, String)]| -> BTreeMap<String, String> {
        pairs.iter().cloned().collect()
    };
    Surroundings {
        domainname: flags.domainname.clone().unwrap_or_default(),
        dns: flags.dns.clone(),
        dns_search: flags.dns_search.iter().filter(|domain| *domain != ".").cloned().collect(),
        dns_options: flags.dns_option.clone(),
        extra_hosts: flags.add_host.clone(),
        sysctls: settings(&flags.sysctl),
        guest_sysctls: settings(&flags.guest_sysctl),
        kernel_args: flags.kernel_arg.clone(),
        ipc: flags.ipc.unwrap_or_default(),
    }
}
