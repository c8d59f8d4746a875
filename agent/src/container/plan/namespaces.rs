//! `linux.namespaces`.

use std::path::{Path, PathBuf};

use husk_protocols::id::ContainerId;
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use super::absolute;
use crate::{spec::SpecError, sys::namespace::CLONE_NEWTIME};

/// What paths begin with that name a namespace of a container of this sandbox:
/// `/run/husk/containers/ID/ns/KIND`, KIND as below `/proc/PID/ns`. No such files exist: a pid
/// could be another process's by the time that it is used, an id is looked up by who knows.
pub const CONTAINERS: &str = "/run/husk/containers";

/// namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Mounts.
    Mount,
    /// The view of the cgroup tree.
    Cgroup,
    /// Host name.
    Uts,
    /// System V IPC and message queues.
    Ipc,
    /// Users, groups and capabilities.
    User,
    /// Processes.
    Pid,
    /// Interfaces, addresses, ports.
    Network,
    /// The monotonic clock and that since boot.
    Time,
}

impl Kind {
    fn of(kind: LinuxNamespaceType) -> Self {
        match kind {
            LinuxNamespaceType::Mount => Self::Mount,
            LinuxNamespaceType::Cgroup => Self::Cgroup,
            LinuxNamespaceType::Uts => Self::Uts,
            LinuxNamespaceType::Ipc => Self::Ipc,
            LinuxNamespaceType::User => Self::User,
            LinuxNamespaceType::Pid => Self::Pid,
            LinuxNamespaceType::Network => Self::Network,
            LinuxNamespaceType::Time => Self::Time,
        }
    }

    /// As the spec has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Cgroup => "cgroup",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::User => "user",
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Time => "time",
        }
    }

    /// As the kernel has it, below `/proc/PID/ns`.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Network => "net",
            other => other.name(),
        }
    }

    /// For unshare(2) and setns(2).
    #[must_use]
    pub fn flag(self) -> CloneFlags {
        match self {
            Self::Mount => CloneFlags::CLONE_NEWNS,
            Self::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::User => CloneFlags::CLONE_NEWUSER,
            Self::Pid => CloneFlags::CLONE_NEWPID,
            Self::Network => CloneFlags::CLONE_NEWNET,
            Self::Time => CLONE_NEWTIME,
        }
    }

    /// The full name of its entry in the spec.
    #[must_use]
    pub fn field(self) -> String {
        format!("linux.namespaces[{}]", self.name())
    }
}

/// Where a namespace is that a container joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file of the guest.
    Path(PathBuf),
    /// That of another container's first process.
    Container(ContainerId),
}

/// A namespace that a container joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Which.
    pub kind: Kind,
    /// Whose.
    pub place: Place,
}

/// Which namespaces the container does not have from the guest: those in the spec's list, new or
/// joined. Its mount namespace is always one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Host name.
    pub uts: bool,
    /// System V IPC and message queues.
    pub ipc: bool,
    /// Interfaces, addresses, ports.
    pub network: bool,
    /// The view of the cgroup tree.
    pub cgroup: bool,
    /// Processes.
    pub pid: bool,
    /// Users, groups and capabilities.
    pub user: bool,
    /// The monotonic clock and that since boot.
    pub time: bool,
}

impl Namespaces {
    /// Flags for setns(2) of a further process. The pid namespace is not among them: a process is
    /// born in it.
    #[must_use]
    pub fn flags(self) -> CloneFlags {
        let mut flags = Kind::Mount.flag();
        flags.set(Kind::Uts.flag(), self.uts);
        flags.set(Kind::Ipc.flag(), self.ipc);
        flags.set(Kind::Network.flag(), self.network);
        flags.set(Kind::Cgroup.flag(), self.cgroup);
        flags.set(Kind::User.flag(), self.user);
        flags.set(Kind::Time.flag(), self.time);
        flags
    }
}

/// `linux.namespaces`, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NamespaceList {
    /// Those that are not the guest's.
    pub namespaces: Namespaces,
    /// Those among them that are not new, in the order of the spec.
    pub joins: Vec<Join>,
}

impl NamespaceList {
    /// Reads the list.
    ///
    /// # Errors
    /// A namespace twice, a path that names none, or no mount namespace.
    pub fn read(list: &[LinuxNamespace]) -> Result<Self, SpecError> {
        let mut seen: Vec<Kind> = Vec::new();
        let mut joins = Vec::new();
        for namespace in list {
            let kind = Kind::of(namespace.typ());
            if seen.contains(&kind) {
                return Err(SpecError::invalid(kind.field(), "is there twice"));
            }
            seen.push(kind);
            let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
            if let Some(path) = path {
                joins.push(Join { kind, place: place(kind, path)? });
            }
        }
        let has = |kind| seen.contains(&kind);
        if !has(Kind::Mount) {
            // The guest's own mounts are the agent's.
            return Err(SpecError::unsupported("linux.namespaces without mount"));
        }
        let namespaces = Namespaces {
            uts: has(Kind::Uts),
            ipc: has(Kind::Ipc),
            network: has(Kind::Network),
            cgroup: has(Kind::Cgroup),
            pid: has(Kind::Pid),
            user: has(Kind::User),
            time: has(Kind::Time),
        };
        let list = Self { namespaces, joins };
        list.refuse_joins_of_a_new_user()?;
        Ok(list)
    }

    /// Those that are joined.
    #[must_use]
    pub fn joined(&self) -> Vec<Kind> {
        self.joins.iter().map(|join| join.kind).collect()
    }

    /// Whether one is made for the container.
    #[must_use]
    pub fn is_new(&self, kind: Kind) -> bool {
        let all = self.namespaces;
        let listed = (kind == Kind::Pid && all.pid) || all.flags().contains(kind.flag());
        listed && self.joins.iter().all(|join| join.kind != kind)
    }

    /// A process enters these two after its birth. In a user namespace that has just been made it
    /// has no right to those of others.
    fn refuse_joins_of_a_new_user(&self) -> Result<(), SpecError> {
        let impossible = |join: &&Join| matches!(join.kind, Kind::Mount | Kind::Time);
        match self.joins.iter().find(impossible) {
            Some(join) if self.is_new(Kind::User) => Err(SpecError::invalid(
                format!("{}.path", join.kind.field()),
                "cannot be joined out of a new user namespace",
            )),
            _ => Ok(()),
        }
    }
}

fn place(kind: Kind, path: &Path) -> Result<Place, SpecError> {
    let field = format!("{}.path", kind.field());
    let path = absolute(&field, path.to_owned())?;
    let Ok(rest) = path.strip_prefix(CONTAINERS) else { return Ok(Place::Path(path)) };
    let shape = || {
        let reason = format!("a container's is {CONTAINERS}/ID/ns/{}", kind.file());
        SpecError::invalid(&field, reason)
    };
    let parts: Option<Vec<&str>> = rest.iter().map(|part| part.to_str()).collect();
    match parts.as_deref() {
        Some([id, "ns", file]) if *file == kind.file() => {
            id.parse().map(Place::Container).map_err(|_| shape())
        }
        _ => Err(shape()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<NamespaceList, SpecError> {
        NamespaceList::read(&serde_json::from_str::<Vec<LinuxNamespace>>(json).unwrap())
    }

    #[test]
    fn listed_namespaces_are_not_the_guests() {
        let list =
            read(r#"[{"type":"pid"},{"type":"mount"},{"type":"uts"},{"type":"time"}]"#).unwrap();
        let expected = Namespaces { uts: true, pid: true, time: true, ..Namespaces::default() };
        assert_eq!(list.namespaces, expected);
        assert!(!list.namespaces.flags().contains(CloneFlags::CLONE_NEWPID));
        assert!(list.is_new(Kind::Pid) && list.is_new(Kind::Time) && !list.is_new(Kind::Ipc));
    }

    #[test]
    fn path_names_a_file_or_a_container() {
        let list = read(
            r#"[{"type":"mount"},{"type":"network","path":"/proc/7/ns/net"},
                {"type":"ipc","path":"/run/husk/containers/web/ns/ipc"}]"#,
        )
        .unwrap();
        let place = |index: usize| list.joins.get(index).unwrap().place.clone();
        assert_eq!(place(0), Place::Path("/proc/7/ns/net".into()));
        assert_eq!(place(1), Place::Container("web".parse().unwrap()));
        assert_eq!(list.joined(), [Kind::Network, Kind::Ipc]);
        assert!(list.namespaces.ipc && !list.is_new(Kind::Ipc) && list.is_new(Kind::Mount));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (entries, field) in [
            (r#"{"type":"pid"},{"type":"pid"}"#, "linux.namespaces[pid]"),
            (r#"{"type":"ipc","path":"proc/1/ns/ipc"}"#, "linux.namespaces[ipc].path"),
            (r#"{"type":"ipc","path":"/proc/../ns/ipc"}"#, "linux.namespaces[ipc].path"),
            (
                r#"{"type":"ipc","path":"/run/husk/containers/web/ns/uts"}"#,
                "linux.namespaces[ipc].path",
            ),
            (r#"{"type":"ipc","path":"/run/husk/containers/web"}"#, "linux.namespaces[ipc].path"),
            (
                r#"{"type":"ipc","path":"/run/husk/containers/a b/ns/ipc"}"#,
                "linux.namespaces[ipc].path",
            ),
            (
                r#"{"type":"user"},{"type":"time","path":"/proc/1/ns/time"}"#,
                "linux.namespaces[time].path",
            ),
        ] {
            match read(&format!(r#"[{{"type":"mount"}},{entries}]"#)) {
                Err(SpecError::Invalid { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{entries}: {other:?}"),
            }
        }
        let without = read(r#"[{"type":"pid"}]"#);
        assert_eq!(without, Err(SpecError::unsupported("linux.namespaces without mount")));
    }

    proptest! {
        #[test]
        fn path_below_the_containers_is_one_or_refused(rest in "[a-z0-9./]{0,24}") {
            let path = format!("{CONTAINERS}/{rest}");
            match place(Kind::Network, Path::new(&path)) {
                Ok(Place::Container(id)) => prop_assert!(rest.contains(id.as_str())),
                Ok(Place::Path(path)) => prop_assert!(false, "{path:?} is taken for a file"),
                Err(error) => {
                    prop_assert!(error.to_string().starts_with("linux.namespaces[network].path"));
                }
            }
        }
    }
}
