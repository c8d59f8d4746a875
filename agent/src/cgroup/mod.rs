//! One cgroup v2 folder for each container. Written by hand: the packages for it speak to systemd
//! and to cgroup v1 too, and would be a third of the agent.

mod block;
mod delegation;
mod devices;
mod folder;
mod program;
mod resources;
mod settings;
pub mod stats;
mod update;
mod watch;

use std::{fs, io, os::fd::OwnedFd, path::Path};

use husk_protocols::{error::ErrorKind, id::ContainerId};
use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::Pid,
};
use oci_spec::runtime::Linux;

pub use folder::Cgroup;
pub use update::Update;
pub use watch::Watched;

use crate::spec::SpecError;
use devices::Rules;
use resources::Limits;

/// Where the tree is mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// The folder of containers that name none.
const DEFAULT_PARENT: &str = "husk";
/// Deepest folder that is looked at below a container's own. The container can make more.
const MAX_DEPTH: usize = 64;
/// As many tasks as the guest can have, the kernel's own too:
/// Documentation/admin-guide/sysctl/kernel.rst.
const THREADS_MAX: &str = "/proc/sys/kernel/threads-max";
/// For the agent, its second stages and the kernel.
const RESERVED_TASKS: u64 = 512;

/// Why a call on a cgroup failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Another container's.
    #[error("linux.cgroupsPath: {0} is taken")]
    Taken(String),
    /// Its processes would stand from their birth.
    #[error("linux.cgroupsPath: {0} is below a cgroup that is paused")]
    Frozen(String),
    /// The kernel has no such controller or file.
    #[error("linux.resources: the guest kernel has no {file} ({option})")]
    NoController {
        /// The file that is missing.
        file: String,
        /// The kernel's configuration option.
        option: &'static str,
    },
    /// The kernel has the controller, and it has no such file.
    #[error("linux.resources: the guest kernel's cgroups have no file {0}")]
    NoFile(String),
    /// The processor or the kernel has no pages of this size.
    #[error("linux.resources.hugepageLimits: the guest has no huge pages of {0}")]
    NoPageSize(String),
    /// Device rules cannot be enforced.
    #[error("linux.resources.devices: the guest kernel cannot filter devices ({option})")]
    NoDeviceFilter {
        /// The kernel's configuration option.
        option: &'static str,
    },
    /// `checkBeforeUpdate`.
    #[error("linux.resources.memory.limit: {limit} bytes are below the {used} in use")]
    MemoryInUse {
        /// What was asked for.
        limit: u64,
        /// What there is.
        used: u64,
    },
    /// An update that failed half-way.
    #[error("{files} keep new values")]
    Kept {
        /// Which files.
        files: String,
        /// Why it failed.
        #[source]
        source: Box<CgroupError>,
    },
    /// The kernel refused a value.
    #[error("set {file} to {value}")]
    Value {
        /// The file.
        file: String,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Any other operation.
    #[error("{operation} cgroup {path}")]
    Operation {
        /// Which.
        operation: &'static str,
        /// On what.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Frozen(_) => ErrorKind::WrongState,
            Self::Taken(_) | Self::Value { .. } | Self::MemoryInUse { .. } => ErrorKind::Invalid,
            Self::NoController { .. }
            | Self::NoFile(_)
            | Self::NoPageSize(_)
            | Self::NoDeviceFilter { .. } => ErrorKind::Unsupported,
            Self::Kept { source, .. } => source.kind(),
            Self::Operation { .. } => ErrorKind::Internal,
        }
    }
}

/// What a spec asks of a container's cgroup.
#[derive(Debug)]
pub struct CgroupPlan {
    /// Below the root cgroup, without a slash at the start.
    pub path: String,
    limits: Limits,
    devices: Rules,
}

impl CgroupPlan {
    /// One without limits, for what is no container: among the containers', under a name that no
    /// container's id can be.
    #[must_use]
    pub fn unlimited(name: &str) -> Self {
        Self {
            path: format!("{DEFAULT_PARENT}/@{name}"),
            limits: Limits::default(),
            devices: Rules::default(),
        }
    }

    /// Reads `linux.cgroupsPath` and `linux.resources`.
    ///
    /// # Errors
    /// [`SpecError`] with the field's name.
    pub fn read(linux: Option<&Linux>, id: &ContainerId) -> Result<Self, SpecError> {
        let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        Ok(Self {
            path: match path.filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => relative(path)?,
                None => format!("{DEFAULT_PARENT}/{id}"),
            },
            limits: resources.map(Limits::read).transpose()?.unwrap_or_default(),
            devices: resources
                .and_then(|resources| resources.devices().as_deref())
                .map(Rules::read)
                .transpose()?
                .unwrap_or_default(),
        })
    }
}

fn relative(path: &Path) -> Result<String, SpecError> {
    use std::path::Component;
    let invalid = || {
        let shown: String = path.to_string_lossy().chars().take(80).collect();
        SpecError::invalid("linux.cgroupsPath", format!("{shown:?} is no path below the root"))
    };
    refuse_systemd(path)?;
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => {
                let part = part.to_str().filter(|part| !part.contains('\0'));
                parts.push(part.ok_or_else(invalid)?);
            }
            Component::RootDir => {}
            _ => return Err(invalid()),
        }
    }
    if parts.is_empty() || parts.len() > MAX_DEPTH { Err(invalid()) } else { Ok(parts.join("/")) }
}

/// `slice:prefix:name` asks systemd for a unit.
fn refuse_systemd(path: &Path) -> Result<(), SpecError> {
    let text = path.to_string_lossy();
    if text.contains('/') || text.split(':').count() != 3 {
        return Ok(());
    }
    let shown: String = text.chars().take(80).collect();
    let reason = format!("{shown:?} is systemd's form, and the guest has no systemd: name a path");
    Err(SpecError::invalid("linux.cgroupsPath", reason))
}

/// Enables all controllers for the root's children and makes the default parent.
///
/// # Errors
/// [`CgroupError::Operation`].
pub fn set_up_root() -> Result<(), CgroupError> {
    let root = Path::new(ROOT);
    enable_controllers(root)?;
    make_parent(&root.join(DEFAULT_PARENT))
}

/// What no container can take, on a child of the root: a container that may write to its cgroups
/// nests them no deeper than they can be removed, and leaves the agent some processes to start.
fn limit_branch(folder: &Path) -> Result<(), CgroupError> {
    fs::write(folder.join("cgroup.max.depth"), MAX_DEPTH.to_string())
        .map_err(operation("limit the depth of", folder))?;
    let all = fs::read_to_string(THREADS_MAX).map_err(operation("count the tasks for", folder))?;
    let all: u64 = all.trim().parse().unwrap_or(u64::MAX);
    let most = all.saturating_sub(RESERVED_TASKS).max(all / 2);
    fs::write(folder.join("pids.max"), most.to_string())
        .map_err(operation("limit the tasks of", folder))
}

fn operation(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.display().to_string();
    move |source| CgroupError::Operation { operation, path, source }
}

fn enable_controllers(folder: &Path) -> Result<(), CgroupError> {
    let failed = || operation("enable the controllers of", folder);
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).map_err(failed())?;
    let enable: Vec<String> =
        controllers.split_whitespace().map(|controller| format!("+{controller}")).collect();
    fs::write(folder.join("cgroup.subtree_control"), enable.join(" ")).map_err(failed())
}

/// Makes a folder that will have children, unless it is there.
fn make_parent(folder: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(folder) {
        Ok(()) => {
            if folder.parent() == Some(Path::new(ROOT)) {
                limit_branch(folder)?;
            }
            enable_controllers(folder)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(operation("make", folder)(error)),
    }
}

/// The cgroup that a process is in now: a container may have moved it below its own.
///
/// # Errors
/// As open(2).
pub fn folder_of(pid: Pid) -> io::Result<OwnedFd> {
    let file = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = file.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = Path::new(ROOT).join(path.ok_or(io::ErrorKind::NotFound)?);
    Ok(open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_stays_below_the_root() {
        assert_eq!(relative(Path::new("/docker/abc")).unwrap(), "docker/abc");
        assert_eq!(relative(Path::new("kube/x")).unwrap(), "kube/x");
        for path in ["/", "/../x", "a/../../b", "", "/a\0"] {
            assert!(relative(Path::new(path)).is_err(), "{path:?}");
        }
    }

    #[test]
    fn form_of_systemd_is_told_apart() {
        let error = relative(Path::new("system.slice:docker:abc")).unwrap_err();
        assert!(error.to_string().contains("systemd"), "{error}");
        assert_eq!(relative(Path::new("/a:b:c")).unwrap(), "a:b:c");
    }

    #[test]
    fn container_without_a_path_gets_one_by_its_id() {
        let plan = CgroupPlan::read(None, &"web".parse().unwrap()).unwrap();
        assert_eq!(plan.path, "husk/web");
    }
}
