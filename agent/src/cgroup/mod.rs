//! One cgroup v2 folder for each container. Written by hand: the packages for it speak to systemd and
//! to cgroup v1 too, and would be a third of the agent.

mod resources;

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use husk_protocols::{error::ErrorKind, id::ContainerId};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::{signal::kill, stat::Mode},
    unistd::Pid,
};
use oci_spec::runtime::Linux;

pub use resources::Setting;

use crate::spec::SpecError;

/// Where the tree is mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// The folder of containers that name none.
const DEFAULT_PARENT: &str = "husk";
/// Deepest folder that is looked at below a container's own. The container can make more.
const MAX_DEPTH: usize = 64;

/// Why a call on a cgroup failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Another container's.
    #[error("linux.cgroupsPath: {0} is taken")]
    Taken(String),
    /// The kernel has no such controller or file.
    #[error("the guest kernel has no {file} ({option})")]
    NoController {
        /// The file that is missing.
        file: String,
        /// The kernel's configuration option.
        option: &'static str,
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
            Self::Taken(_) | Self::Value { .. } => ErrorKind::Invalid,
            Self::NoController { .. } => ErrorKind::Unsupported,
            Self::Operation { .. } => ErrorKind::Internal,
        }
    }
}

/// What a spec asks of a container's cgroup.
#[derive(Debug)]
pub struct CgroupPlan {
    /// Below the root cgroup, without a slash at the start.
    pub path: String,
    settings: Vec<Setting>,
}

impl CgroupPlan {
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
            settings: resources.map(resources::settings).transpose()?.unwrap_or_default(),
        })
    }
}

fn relative(path: &Path) -> Result<String, SpecError> {
    use std::path::Component;
    let invalid = || {
        let shown: String = path.to_string_lossy().chars().take(80).collect();
        SpecError::invalid("linux.cgroupsPath", format!("{shown:?} is no path below the root"))
    };
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

/// Enables all controllers for the root's children and makes the default parent.
///
/// # Errors
/// [`CgroupError::Operation`].
pub fn set_up_root() -> Result<(), CgroupError> {
    let root = Path::new(ROOT);
    enable_controllers(root)?;
    make_parent(&root.join(DEFAULT_PARENT))
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
        Ok(()) => enable_controllers(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(operation("make", folder)(error)),
    }
}

/// A container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
}

impl Cgroup {
    /// Makes it with its limits in force.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing is left.
    pub fn create(plan: &CgroupPlan) -> Result<Self, CgroupError> {
        let path = Path::new(ROOT).join(&plan.path);
        if let Some(parent) = Path::new(&plan.path).parent() {
            let mut reached = PathBuf::from(ROOT);
            for part in parent.components() {
                reached.push(part);
                make_parent(&reached)?;
            }
        }
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CgroupError::Taken(plan.path.clone()));
            }
            Err(error) => return Err(operation("make", &path)(error)),
        }
        Self::fill(&path, plan).inspect_err(|_| {
            // Nothing is in it yet.
            let _ = fs::remove_dir(&path);
        })
    }

    fn fill(path: &Path, plan: &CgroupPlan) -> Result<Self, CgroupError> {
        for (file, value) in &plan.settings {
            write_setting(path, file, value)?;
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(path, flags, Mode::empty())
            .map_err(|errno| operation("open", path)(errno.into()))?;
        Ok(Self { path: path.to_owned(), folder })
    }

    /// The folder, for clone3(2).
    #[must_use]
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Kills every process in it and below.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn kill(&self) -> Result<(), CgroupError> {
        fs::write(self.path.join("cgroup.kill"), "1").map_err(operation("kill", &self.path))
    }

    /// Sends a signal to every process in it and below.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn signal(&self, signal: i32) -> Result<(), CgroupError> {
        let signal = nix::sys::signal::Signal::try_from(signal)
            .map_err(|errno| operation("signal", &self.path)(errno.into()))?;
        for folder in self.folders() {
            let pids = match fs::read_to_string(folder.join("cgroup.procs")) {
                Ok(pids) => pids,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(operation("read", &folder)(error)),
            };
            for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
                match kill(Pid::from_raw(pid), signal) {
                    // It has ended meanwhile.
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(operation("signal", &folder)(errno.into())),
                }
            }
        }
        Ok(())
    }

    /// The folder and all below it, parents first.
    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.path.clone()];
        let mut next = 0;
        while let Some(folder) = folders.get(next).cloned() {
            next += 1;
            let depth = folder.components().count() - self.path.components().count();
            if depth >= MAX_DEPTH {
                continue;
            }
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        folders
    }

    /// A file of it; nothing when the kernel has none of this name.
    #[must_use]
    pub fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path.join(file)).ok()
    }

    /// How many processes of it the kernel has killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events"))
            .ok()
            .and_then(|events| {
                let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
                line.trim().parse().ok()
            })
            .unwrap_or_default()
    }

    /// Removes it and what the container made below it. `false` while processes are in it.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn try_remove(&self) -> Result<bool, CgroupError> {
        for folder in self.folders().iter().rev() {
            match fs::remove_dir(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
                Err(error) => return Err(operation("remove", folder)(error)),
            }
        }
        self.remove_empty_parents();
        Ok(true)
    }

    /// Those that were made for this path, and hold nothing else now.
    fn remove_empty_parents(&self) {
        let kept = [Path::new(ROOT), &Path::new(ROOT).join(DEFAULT_PARENT)];
        for parent in self.path.ancestors().skip(1) {
            if kept.contains(&parent) || fs::remove_dir(parent).is_err() {
                return;
            }
        }
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

fn write_setting(folder: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let write = || {
        use std::io::Write;
        fs::OpenOptions::new().write(true).open(folder.join(file))?.write_all(value.as_bytes())
    };
    match write() {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match kernel_option(file) {
            // A guest without swap keeps every limit of it.
            "CONFIG_SWAP" => Ok(()),
            option => Err(CgroupError::NoController { file: file.to_owned(), option }),
        },
        Err(source) => {
            Err(CgroupError::Value { file: file.to_owned(), value: value.to_owned(), source })
        }
    }
}

fn kernel_option(file: &str) -> &'static str {
    match file {
        "memory.swap.max" => "CONFIG_SWAP",
        "cpu.max" | "cpu.max.burst" => "CONFIG_CFS_BANDWIDTH",
        _ => match file.split('.').next() {
            Some("memory") => "CONFIG_MEMCG",
            Some("cpu") => "CONFIG_FAIR_GROUP_SCHED",
            Some("cpuset") => "CONFIG_CPUSETS",
            Some("pids") => "CONFIG_CGROUP_PIDS",
            Some("io") => "CONFIG_BLK_CGROUP",
            Some("hugetlb") => "CONFIG_CGROUP_HUGETLB",
            _ => "CONFIG_CGROUPS",
        },
    }
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
    fn container_without_a_path_gets_one_by_its_id() {
        let plan = CgroupPlan::read(None, &"web".parse().unwrap()).unwrap();
        assert_eq!(plan.path, "husk/web");
    }
}
