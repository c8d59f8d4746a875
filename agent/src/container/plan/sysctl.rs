//! `linux.sysctl`: only what belongs to the container's own namespaces (namespaces(7) says which).

use std::{collections::HashMap, path::PathBuf};

use super::{Namespaces, short};
use crate::spec::SpecError;

/// Those of the ipc namespace, beside `fs.mqueue.*`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Turns names and values into files below /proc/sys and what to write there, in order of name.
///
/// # Errors
/// [`SpecError::GuestSysctl`] for one that is the guest's.
pub fn read(
    values: &HashMap<String, String>,
    namespaces: &Namespaces,
) -> Result<Vec<(PathBuf, String)>, SpecError> {
    let mut files = values
        .iter()
        .map(|(name, value)| Ok((file(name, namespaces)?, value.clone())))
        .collect::<Result<Vec<_>, SpecError>>()?;
    files.sort();
    Ok(files)
}

fn file(name: &str, namespaces: &Namespaces) -> Result<PathBuf, SpecError> {
    // "net/ipv4/conf/eth0.1/forwarding" says the same with slashes, so that a dot can be in a name.
    let (parts, dotted): (Vec<&str>, String) = if name.contains('/') {
        (name.split('/').collect(), name.replace('/', "."))
    } else {
        (name.split('.').collect(), name.to_owned())
    };
    let plain = |part: &&str| !matches!(*part, "" | "." | "..") && !part.contains('\0');
    if parts.len() < 2 || !parts.iter().all(plain) {
        return Err(SpecError::invalid("linux.sysctl", format!("{:?} is no name", short(name))));
    }
    if matches!(dotted.as_str(), "kernel.hostname" | "kernel.domainname") {
        let reason = format!("{dotted} is set by the spec's own field");
        return Err(SpecError::invalid("linux.sysctl", reason));
    }
    let own = match parts.as_slice() {
        ["net", ..] => namespaces.network,
        ["fs", "mqueue", _] => namespaces.ipc,
        _ => namespaces.ipc && IPC.contains(&dotted.as_str()),
    };
    if own { Ok(parts.iter().collect()) } else { Err(SpecError::GuestSysctl(short(&dotted))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Namespaces = Namespaces {
        uts: true,
        ipc: true,
        network: true,
        cgroup: true,
        pid: true,
        user: false,
        time: false,
    };

    #[test]
    fn own_sysctl_becomes_a_file() {
        let path = |name| file(name, &ALL).unwrap();
        assert_eq!(path("net.core.somaxconn"), PathBuf::from("net/core/somaxconn"));
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding"),
            PathBuf::from("net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(path("kernel.shmmax"), PathBuf::from("kernel/shmmax"));
    }

    #[test]
    fn sysctl_of_the_guest_is_refused_with_a_hint() {
        for name in ["vm.swappiness", "kernel.panic", "fs.file-max"] {
            let error = file(name, &ALL).unwrap_err();
            assert!(error.to_string().contains("use --guest-sysctl"), "{error}");
        }
        let shared = Namespaces { network: false, ..ALL };
        assert!(matches!(file("net.core.somaxconn", &shared), Err(SpecError::GuestSysctl(_))));
    }

    #[test]
    fn name_that_leaves_proc_sys_is_refused() {
        for name in ["net/../../1/mem", "net..x", "net", "", "net/./x", "net.x\0"] {
            assert!(matches!(file(name, &ALL), Err(SpecError::Invalid { .. })), "{name:?}");
        }
    }
}
