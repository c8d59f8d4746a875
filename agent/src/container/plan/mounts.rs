//! `mounts`.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use super::{absolute, no_zero, short};
use crate::{
    mount::{MountOptions, OptionError},
    spec::{SpecError, has},
};

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
    if has(mount.uid_mappings()) || has(mount.gid_mappings()) {
        return Err(SpecError::unsupported(format!("{field}.uidMappings")));
    }
    if destination == Path::new("/") {
        return Err(SpecError::invalid(field, "the root itself cannot be mounted over"));
    }
    let options = mount.options().iter().flatten().map(String::as_str);
    let options = MountOptions::parse(options).map_err(|error| match error {
        OptionError::Unsupported(option) => {
            SpecError::unsupported(format!("{field}.options: {}", short(&option)))
        }
        error @ OptionError::DataOnBind(_) => SpecError::invalid(&field, error.to_string()),
    })?;
    for (key, value) in &options.data {
        no_zero(&field, key)?;
        no_zero(&field, value.as_deref().unwrap_or_default())?;
    }
    let kind = kind(&field, mount, &options)?;
    let plan = MountPlan { destination, kind, options };
    if plan.destination.starts_with("/proc") && !plan.is_allowed_on_proc() {
        return Err(SpecError::invalid(field, "cannot be mounted inside /proc"));
    }
    Ok(plan)
}

fn kind(field: &str, mount: &Mount, options: &MountOptions) -> Result<MountKind, SpecError> {
    let fstype = mount.typ().as_deref().unwrap_or_default();
    if let Some(depth) =
        options.bind.or_else(|| (fstype == "bind").then_some(crate::sys::mount::Depth::One))
    {
        let source = mount
            .source()
            .clone()
            .ok_or_else(|| SpecError::invalid(field, "a bind mount needs a source"))?;
        let source = absolute(field, source)?;
        return Ok(MountKind::Bind { source, recursive: depth == crate::sys::mount::Depth::Tree });
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
        let mapped = json!({"destination": "/x", "type": "tmpfs", "options": ["idmap"]});
        let error = read_one(mapped).unwrap_err();
        assert_eq!(error, SpecError::unsupported("mounts[/x].options: idmap"));
    }
}
