//! `mounts`.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};
use serde::{Deserialize, Serialize};

use super::{absolute, no_zero, short};
use crate::{
    mount::MountOptions,
    spec::{SpecError, has},
    sys::{
        mount::Depth,
        user_namespace::{MAX_MAPPINGS, Mapping},
    },
};

/// Those that count changes of files whatever is asked: others are not known to.
const COUNT_CHANGES: [&str; 2] = ["ext4", "tmpfs"];

/// Files of procfs that others may be bound over: they describe the machine, and guard nothing.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Inside the container.
    pub destination: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
    /// With which attributes and data.
    pub options: MountOptions,
    /// Whose owners its files are shown under.
    pub id_map: Option<IdMap>,
}

/// `uidMappings` and `gidMappings` of a mount: from the file system's ids to those that are seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Of users.
    pub uid: Vec<Mapping>,
    /// Of groups.
    pub gid: Vec<Mapping>,
    /// For all mounts below too.
    pub recursive: bool,
}

/// What a mount brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or folder of the guest; with all mounts below it or without.
    Bind {
        /// In the guest.
        source: PathBuf,
        /// `rbind`.
        recursive: bool,
    },
    /// The container's own part of the cgroup tree.
    Cgroup,
    /// A process file system, sysfs included: mounted on plain folders only.
    Kernel {
        /// Its name.
        fstype: String,
    },
    /// Nothing: what is there is changed.
    Remount,
    /// Any other file system.
    Filesystem {
        /// Its name.
        fstype: String,
        /// Where it has one.
        source: Option<String>,
    },
}

impl MountPlan {
    /// Whether it may lie on procfs.
    #[must_use]
    pub fn is_allowed_on_proc(&self) -> bool {
        match &self.kind {
            MountKind::Kernel { fstype } => fstype == "proc",
            MountKind::Bind { .. } => is_proc_file(&self.destination),
            // It covers nothing.
            MountKind::Remount => true,
            MountKind::Cgroup | MountKind::Filesystem { .. } => false,
        }
    }
}

fn is_proc_file(path: &Path) -> bool {
    PROC_FILES.iter().any(|allowed| path == Path::new(allowed))
}

/// Reads the list.
///
/// # Errors
/// [`SpecError`] with the mount's destination.
pub fn read(list: &[Mount]) -> Result<Vec<MountPlan>, SpecError> {
    list.iter().map(one).collect()
}

fn one(mount: &Mount) -> Result<MountPlan, SpecError> {
    // Older runtimes took "proc" for "/proc", and the spec says so.
    let destination = absolute("mounts", Path::new("/").join(mount.destination()))?;
    let field = format!("mounts[{}]", short(&destination.to_string_lossy()));
    if destination == Path::new("/") {
        return Err(SpecError::invalid(field, "the root itself cannot be mounted over"));
    }
    let options = mount.options().iter().flatten().map(String::as_str);
    let options = MountOptions::parse(options)
        .map_err(|error| SpecError::invalid(&field, short(&error.to_string())))?;
    for (key, value) in &options.data {
        no_zero(&field, key)?;
        no_zero(&field, value.as_deref().unwrap_or_default())?;
    }
    let kind = kind(&field, mount, &options)?;
    check_file_system(&field, &kind, &options)?;
    let id_map = id_map(&field, mount, &options)?;
    let plan = MountPlan { destination, kind, options, id_map };
    if plan.destination.starts_with("/proc") && !plan.is_allowed_on_proc() {
        return Err(SpecError::invalid(field, "cannot be mounted inside /proc"));
    }
    Ok(plan)
}

fn check_file_system(
    field: &str,
    kind: &MountKind,
    options: &MountOptions,
) -> Result<(), SpecError> {
    let fstype = match kind {
        MountKind::Filesystem { fstype, .. } | MountKind::Kernel { fstype } => fstype.as_str(),
        MountKind::Cgroup | MountKind::Bind { .. } | MountKind::Remount => "",
    };
    if options.copy_up && fstype != "tmpfs" {
        return Err(SpecError::invalid(field, "option tmpcopyup is for tmpfs"));
    }
    if options.iversion && !COUNT_CHANGES.contains(&fstype) {
        return Err(SpecError::unsupported(format!("{field}.options: iversion")));
    }
    Ok(())
}

/// Mappings without `idmap` mean it too; `idmap` without mappings would be those of the container's
/// user namespace, and the standard lets a runtime refuse that.
fn id_map(field: &str, mount: &Mount, options: &MountOptions) -> Result<Option<IdMap>, SpecError> {
    let (uid, gid) = (mount.uid_mappings(), mount.gid_mappings());
    if !has(uid) && !has(gid) {
        return match options.id_map {
            None => Ok(None),
            Some(_) => {
                let reason = "option idmap needs uidMappings and gidMappings of the mount";
                Err(SpecError::invalid(field, reason))
            }
        };
    }
    if options.remount {
        return Err(SpecError::invalid(field, "ids cannot be mapped with remount"));
    }
    Ok(Some(IdMap {
        uid: mappings(&format!("{field}.uidMappings"), uid)?,
        gid: mappings(&format!("{field}.gidMappings"), gid)?,
        recursive: options.id_map == Some(Depth::Tree),
    }))
}

fn mappings(field: &str, list: &Option<Vec<LinuxIdMapping>>) -> Result<Vec<Mapping>, SpecError> {
    let list: Vec<Mapping> = list
        .iter()
        .flatten()
        .map(|one| Mapping { inside: one.container_id(), outside: one.host_id(), size: one.size() })
        .collect();
    if list.is_empty() {
        return Err(SpecError::invalid(field, "is missing: both kinds of ids need mappings"));
    }
    if list.len() > MAX_MAPPINGS {
        return Err(SpecError::invalid(field, format!("has more than {MAX_MAPPINGS} ranges")));
    }
    let fits = |first: u32, size: u32| size > 0 && first.checked_add(size - 1).is_some();
    match list.iter().find(|one| !fits(one.inside, one.size) || !fits(one.outside, one.size)) {
        Some(Mapping { inside, outside, size }) => {
            let reason = format!("{inside} to {outside}, {size} of them, is no range of ids");
            Err(SpecError::invalid(field, reason))
        }
        None => Ok(list),
    }
}

fn kind(field: &str, mount: &Mount, options: &MountOptions) -> Result<MountKind, SpecError> {
    let fstype = mount.typ().as_deref().unwrap_or_default();
    if options.remount {
        return Ok(MountKind::Remount);
    }
    if let Some(depth) = options.bind.or_else(|| (fstype == "bind").then_some(Depth::One)) {
        let source = mount
            .source()
            .clone()
            .ok_or_else(|| SpecError::invalid(field, "a bind mount needs a source"))?;
        let source = absolute(field, source)?;
        return Ok(MountKind::Bind { source, recursive: depth == Depth::Tree });
    }
    no_zero(field, fstype)?;
    match fstype {
        "" => Err(SpecError::invalid(field, "needs a type, or the option bind or rbind")),
        "cgroup" | "cgroup2" => Ok(MountKind::Cgroup),
        "proc" | "sysfs" => Ok(MountKind::Kernel { fstype: fstype.to_owned() }),
        _ => {
            let source =
                mount.source().as_ref().map(|source| source.to_string_lossy().into_owned());
            no_zero(field, source.as_deref().unwrap_or_default())?;
            Ok(MountKind::Filesystem { fstype: fstype.to_owned(), source })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read_one(mount: Value) -> Result<MountPlan, SpecError> {
        one(&serde_json::from_value(mount).unwrap())
    }

    #[test]
    fn nothing_but_proc_and_the_known_files_is_mounted_inside_proc() {
        let bind = |destination: &str| {
            read_one(json!({"destination": destination, "source": "/x", "options": ["bind"]}))
        };
        assert!(
            read_one(json!({"destination": "/proc", "type": "proc", "source": "proc"})).is_ok()
        );
        assert!(bind("/proc/meminfo").is_ok());
        assert!(bind("/proc/../etc").is_err());
        for hidden in ["/proc", "/proc/self/attr/exec", "/proc/sys", "/proc//self", "proc/1"] {
            let error = bind(hidden).unwrap_err().to_string();
            assert!(error.contains("inside /proc"), "{error}");
        }
        let tmpfs = json!({"destination": "/proc", "type": "tmpfs"});
        assert!(read_one(tmpfs).unwrap_err().to_string().contains("inside /proc"));
    }

    #[test]
    fn relative_destination_is_meant_from_the_root() {
        let plan = read_one(json!({"destination": "data", "type": "tmpfs"})).unwrap();
        assert_eq!(plan.destination, Path::new("/data"));
    }

    #[test]
    fn mount_that_makes_no_sense_is_refused() {
        for mount in [
            json!({"destination": "/", "type": "tmpfs"}),
            json!({"destination": "/x"}),
            json!({"destination": "/x", "options": ["rbind"]}),
            json!({"destination": "/x", "source": "rel", "options": ["bind"]}),
            json!({"destination": "/x", "source": "/a", "options": ["bind", "size=1"]}),
            json!({"destination": "/x", "type": "tmpfs", "options": ["mode=1\u{0}"]}),
        ] {
            assert!(matches!(read_one(mount), Err(SpecError::Invalid { .. })));
        }
        let counted = json!({"destination": "/x", "type": "proc", "options": ["iversion"]});
        let error = read_one(counted).unwrap_err();
        assert_eq!(error, SpecError::unsupported("mounts[/x].options: iversion"));
        let copied = json!({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]});
        assert!(read_one(copied).unwrap_err().to_string().contains("tmpcopyup"));
    }

    #[test]
    fn mapped_ids_need_both_maps_and_ranges_that_fit() {
        let range = |inside: u32, outside: u32, size: u32| json!([{"containerID": inside, "hostID": outside, "size": size}]);
        let mount = |uid: Value, gid: Value, option: &str| {
            read_one(json!({
                "destination": "/x", "source": "/a", "options": ["rbind", option],
                "uidMappings": uid, "gidMappings": gid,
            }))
        };
        let plan = mount(range(0, 1000, 10), range(0, 2000, 10), "ridmap").unwrap();
        let map = plan.id_map.unwrap();
        assert_eq!(map.uid, [Mapping { inside: 0, outside: 1000, size: 10 }]);
        assert!(map.recursive);
        let implied = mount(range(0, 1000, 10), range(0, 2000, 10), "ro").unwrap();
        assert!(!implied.id_map.unwrap().recursive);
        for (uid, gid) in [
            (json!([]), json!([])),
            (range(0, 1, 1), json!([])),
            (range(0, 1, 0), range(0, 1, 1)),
            (range(0, u32::MAX, 2), range(0, 1, 1)),
        ] {
            assert!(matches!(mount(uid, gid, "idmap"), Err(SpecError::Invalid { .. })));
        }
    }
}
