//! What makes no sense is refused here, in docker's words where docker has some.

use crate::engine::error::Error;
use crate::engine::record::{Config, Process, Resources, Security, Surroundings};
use crate::engine::spec;

/// Least memory for a workload. docker's.
const MIN_MEMORY_BYTES: u64 = 6 << 20;

fn refuse(text: impl Into<String>) -> Result<(), Error> {
    Err(Error::Invalid(text.into()))
}

/// The whole record, once it is put together.
pub fn check(config: &Config) -> Result<(), Error> {
    check_name(&config.name)?;
    check_hostname("host name", &config.hostname)?;
    check_resources(&config.resources)?;
    check_process(&config.process)?;
    check_surroundings(&config.surroundings)?;
    check_security(&config.security)?;
    let mounts = config.filesystem.tmpfs_mounts.iter().map(|mount| &mount.target);
    let mut seen: Vec<&str> = Vec::new();
    for destination in config.filesystem.tmpfs.keys().chain(mounts) {
        check_absolute("tmpfs", destination)?;
        let place = destination.trim_end_matches('/');
        if place.is_empty() {
            return refuse("tmpfs: cannot be mounted over /");
        }
        if seen.contains(&place) {
            return refuse(format!("Duplicate mount point: {place}"));
        }
        seen.push(place);
    }
    // A seccomp profile is read with the capabilities at hand.
    spec::container_spec(config, None).map(drop)
}

/// As docker takes them.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let first = |c: char| c.is_ascii_alphanumeric();
    if name.len() >= 2 && name.len() <= 128 && name.starts_with(first) && name.chars().all(allowed)
    {
        Ok(())
    } else {
        refuse(format!(
            "container name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]+ is allowed, up to 128 characters"
        ))
    }
}

/// As sethostname(2) and the resolver take it.
fn check_hostname(what: &str, name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !name.is_empty() && name.len() <= 63 && name.chars().all(allowed) && !name.starts_with('-') {
        Ok(())
    } else {
        refuse(format!("{what} {name:?}: 1 to 63 letters, digits, dots and dashes"))
    }
}

/// Limits, by themselves and with each other.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_resources(resources: &Resources) -> Result<(), Error> {
    check_memory(resources)?;
    check_cpu(resources)?;
    if resources.blkio_weight > 0 && !(10..=1000).contains(&resources.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    Ok(())
}

fn check_memory(resources: &Resources) -> Result<(), Error> {
    let Resources { memory_bytes, memory_swap_bytes, memory_reservation_bytes, .. } = *resources;
    if memory_bytes > 0 && memory_bytes < MIN_MEMORY_BYTES {
        return refuse("memory limit: at least 6m");
    }
    if memory_swap_bytes > 0 && memory_bytes == 0 {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if u64::try_from(memory_swap_bytes).is_ok_and(|swap| swap > 0 && swap < memory_bytes) {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory_reservation_bytes > 0 && memory_reservation_bytes < MIN_MEMORY_BYTES {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if memory_bytes > 0 && memory_reservation_bytes > memory_bytes {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    Ok(())
}

fn check_cpu(resources: &Resources) -> Result<(), Error> {
    let cpus = host_cpus();
    if resources.milli_cpus > 0 && resources.cpu_period_us > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set.");
    }
    if resources.milli_cpus > 0 && resources.cpu_quota_us != 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set.");
    }
    if resources.milli_cpus > u64::from(cpus) * 1000 {
        return refuse(format!("cpus: this host has {cpus}, no more can be given"));
    }
    if resources.cpu_period_us > 0 && !(1000..=1_000_000).contains(&resources.cpu_period_us) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if resources.cpu_quota_us > 0 && resources.cpu_quota_us < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let (list, nodes) = (&resources.cpuset_cpus, &resources.cpuset_mems);
    for (what, list, last, available) in
        [("CPUs", list, cpus - 1, "CPUs"), ("memory nodes", nodes, 0, "nodes")]
    {
        if list.is_empty() {
            continue;
        }
        let Some(highest) = Resources::last_of(list) else {
            return refuse(format!("Invalid value {list} for cpuset {available}"));
        };
        if highest > last {
            let all = if last == 0 { "0".to_owned() } else { format!("0-{last}") };
            return refuse(format!(
                "Requested {what} are not available - requested {list}, available: {all}"
            ));
        }
    }
    Ok(())
}

fn host_cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cpus).unwrap_or(u32::MAX)
}

fn check_process(process: &Process) -> Result<(), Error> {
    check_absolute("working directory", &process.cwd)?;
    check_user(&process.user)?;
    if !(-1000..=1000).contains(&process.oom_score_adj) {
        return refuse(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            process.oom_score_adj
        ));
    }
    let unusable = |group: &&String| group.is_empty() || group.contains([':', ',', '\0', '\n']);
    if let Some(group) = process.groups.iter().find(unusable) {
        return refuse(format!("group {group:?} is no name"));
    }
    Ok(())
}

/// `user[:group]`: what stands behind a second colon would be taken for more groups.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_user(user: &str) -> Result<(), Error> {
    match user.split_once(':') {
        Some((_, group)) if group.contains(':') => {
            refuse(format!("unable to find group {group}: no matching entries in group file"))
        }
        _ => Ok(()),
    }
}

fn check_surroundings(surroundings: &Surroundings) -> Result<(), Error> {
    if !surroundings.domainname.is_empty() {
        check_hostname("domain name", &surroundings.domainname)?;
    }
    let broken = |word: &&String| word.is_empty() || word.contains(char::is_whitespace);
    if let Some(option) = surroundings.dns_options.iter().find(broken) {
        return refuse(format!("dns option {option:?} is none"));
    }
    Ok(())
}

fn check_security(security: &Security) -> Result<(), Error> {
    for device in &security.devices {
        if spec::devices::number(&device.source).is_none() {
            return refuse(format!("{}: no such device in the guest", device.source));
        }
    }
    Ok(())
}

/// A path that leaves nothing to guess.
pub fn check_absolute(what: &str, path: &str) -> Result<(), Error> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(())
    } else {
        refuse(format!("{what} {path:?}: must be an absolute path"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_paths_are_refused() {
        for bad in ["", "a", "../x", "a b", "-x", ".x", "ä1"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("web-1.test_2").is_ok());
        assert!(check_hostname("x", "").is_err() && check_hostname("x", &"x".repeat(64)).is_err());
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused_in_dockers_words() {
        let mib = 1 << 20;
        let none = Resources::default;
        for (resources, words) in [
            (Resources { memory_bytes: 5 * mib, ..none() }, "at least 6m"),
            (Resources { memory_swap_bytes: 10 << 20, ..none() }, "always set the Memory limit"),
            (
                Resources { memory_bytes: 20 * mib, memory_swap_bytes: 10 << 20, ..none() },
                "Minimum memoryswap limit",
            ),
            (
                Resources { memory_bytes: 20 * mib, memory_reservation_bytes: 30 * mib, ..none() },
                "memory reservation limit",
            ),
            (Resources { milli_cpus: 500, cpu_quota_us: 5000, ..none() }, "CPU Quota cannot both"),
            (
                Resources { milli_cpus: 500, cpu_period_us: 5000, ..none() },
                "CPU Period cannot both",
            ),
            (Resources { cpu_period_us: 999, ..none() }, "cfs period"),
            (Resources { cpu_quota_us: 999, ..none() }, "cfs quota"),
            (Resources { blkio_weight: 9, ..none() }, "from 10 to 1000"),
            (Resources { cpuset_cpus: "x".into(), ..none() }, "Invalid value x"),
            (Resources { cpuset_cpus: "0-9999".into(), ..none() }, "CPUs are not available"),
            (Resources { cpuset_mems: "1".into(), ..none() }, "available: 0"),
        ] {
            let error = check_resources(&resources).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let fine = Resources {
            memory_bytes: 20 * mib,
            memory_swap_bytes: -1,
            cpu_quota_us: -1,
            cpuset_cpus: "0".into(),
            pids_limit: -1,
            ..none()
        };
        assert!(check_resources(&fine).is_ok());
    }
}
