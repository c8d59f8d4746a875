//! `linux.namespaces`.

use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use crate::spec::SpecError;

/// Which namespaces the container has to itself; the others are the guest's. A container always has
/// its own pid and mount namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Host name.
    pub uts: bool,
    /// System V IPC and message queues.
    pub ipc: bool,
    /// Interfaces, addresses, ports.
    pub network: bool,
    /// The view of the cgroup tree.
    pub cgroup: bool,
}

fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

impl Namespaces {
    /// Reads the list.
    ///
    /// # Errors
    /// A namespace twice, one joined by path, a kind that is not done, or no pid or mount namespace.
    pub fn read(list: &[LinuxNamespace]) -> Result<Self, SpecError> {
        let mut seen: Vec<LinuxNamespaceType> = Vec::new();
        for namespace in list {
            let kind = namespace.typ();
            let field = format!("linux.namespaces[{}]", name(kind));
            if matches!(kind, LinuxNamespaceType::User | LinuxNamespaceType::Time) {
                return Err(SpecError::unsupported(field));
            }
            if namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
                return Err(SpecError::unsupported(format!("{field}.path")));
            }
            if seen.contains(&kind) {
                return Err(SpecError::invalid(field, "is there twice"));
            }
            seen.push(kind);
        }
        let has = |kind| seen.contains(&kind);
        for kind in [LinuxNamespaceType::Pid, LinuxNamespaceType::Mount] {
            if !has(kind) {
                let field = format!("linux.namespaces without {}", name(kind));
                return Err(SpecError::unsupported(field));
            }
        }
        Ok(Self {
            uts: has(LinuxNamespaceType::Uts),
            ipc: has(LinuxNamespaceType::Ipc),
            network: has(LinuxNamespaceType::Network),
            cgroup: has(LinuxNamespaceType::Cgroup),
        })
    }

    /// Flags for unshare(2) and setns(2). The pid namespace is not among them: a process is born in
    /// it.
    #[must_use]
    pub fn flags(self) -> CloneFlags {
        let mut flags = CloneFlags::CLONE_NEWNS;
        flags.set(CloneFlags::CLONE_NEWUTS, self.uts);
        flags.set(CloneFlags::CLONE_NEWIPC, self.ipc);
        flags.set(CloneFlags::CLONE_NEWNET, self.network);
        flags.set(CloneFlags::CLONE_NEWCGROUP, self.cgroup);
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Namespaces, SpecError> {
        Namespaces::read(&serde_json::from_str::<Vec<LinuxNamespace>>(json).unwrap())
    }

    #[test]
    fn listed_namespaces_are_the_containers_own() {
        let namespaces =
            read(r#"[{"type":"pid"},{"type":"mount"},{"type":"uts"},{"type":"cgroup"}]"#).unwrap();
        assert_eq!(namespaces, Namespaces { uts: true, ipc: false, network: false, cgroup: true });
        assert!(!namespaces.flags().contains(CloneFlags::CLONE_NEWPID));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (json, field) in [
            (r#"[{"type":"user"}]"#, "linux.namespaces[user]"),
            (r#"[{"type":"time"}]"#, "linux.namespaces[time]"),
            (r#"[{"type":"network","path":"/proc/1/ns/net"}]"#, "linux.namespaces[network].path"),
            (r#"[{"type":"mount"}]"#, "linux.namespaces without pid"),
            (r#"[{"type":"pid"}]"#, "linux.namespaces without mount"),
        ] {
            assert_eq!(read(json), Err(SpecError::unsupported(field)));
        }
        let twice = r#"[{"type":"pid"},{"type":"pid"}]"#;
        assert!(matches!(read(twice), Err(SpecError::Invalid { .. })));
    }
}
