//! A container's cgroup, from its making to its removal.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::Pid,
};

use super::{
    CgroupError, CgroupPlan, DEFAULT_PARENT, MAX_DEPTH, ROOT, block::WeightFile, devices::Filter,
    limit_branch, make_parent, operation, resources::Limits, settings, stats, update::Update,
    watch::Watched,
};
use crate::sys;

/// Most processes of a container that are listed.
const MAX_PROCESSES: usize = 1 << 16;

/// A container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    pub(super) path: PathBuf,
    folder: OwnedFd,
    /// Held while the resources change: one change at a time, in each container.
    filter: Mutex<Filter>,
}

impl Cgroup {
    /// Makes it with its limits in force. Its devices are open until [`Cgroup::filter_devices`]:
    /// what sets a container up may use those that the container may not.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing is left.
    pub fn create(plan: &CgroupPlan) -> Result<Self, CgroupError> {
        let path = Path::new(ROOT).join(&plan.path);
        let parent = Path::new(&plan.path).parent().unwrap_or(Path::new(""));
        let mut reached = PathBuf::from(ROOT);
        let made = parent.components().try_for_each(|part| {
            reached.push(part);
            make_parent(&reached)
        });
        let made = made.and_then(|()| match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(CgroupError::Taken(plan.path.clone()))
            }
            result => result.map_err(operation("make", &path)),
        });
        let filled = made.and_then(|()| {
            Self::fill(&path, plan).inspect_err(|_| {
                // Nothing is in it yet.
                let _ = fs::remove_dir(&path);
            })
        });
        filled.inspect_err(|_| remove_empty_parents(&path))
    }

    fn fill(path: &Path, plan: &CgroupPlan) -> Result<Self, CgroupError> {
        match path.parent() {
            Some(parent) if parent == Path::new(ROOT) => limit_branch(path)?,
            Some(parent) if parent == Path::new(ROOT).join(DEFAULT_PARENT) => {}
            // Below another container's, maybe.
            _ if is_said(path, "frozen 1") => return Err(CgroupError::Frozen(plan.path.clone())),
            _ => {}
        }
        settings::write_all(path, &plan.limits.settings(weight_file(path, &plan.limits)?))?;
        let filter = Filter::prepare(&plan.devices)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(path, flags, Mode::empty())
            .map_err(|errno| operation("open", path)(errno.into()))?;
        Ok(Self { path: path.to_owned(), folder, filter: Mutex::new(filter) })
    }

    fn filter(&self) -> MutexGuard<'_, Filter> {
        // Each of its states is whole.
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the device rules in force.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn filter_devices(&self) -> Result<(), CgroupError> {
        self.filter().attach(self.folder())
    }

    /// Changes limits and device rules, all of them or none. Blocks: the kernel may have to find
    /// memory to take away.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn update(&self, update: &Update) -> Result<(), CgroupError> {
        let mut filter = self.filter();
        let next = update.devices.as_ref().map(Filter::prepare).transpose()?;
        let mut wanted = update.limits.settings(weight_file(&self.path, &update.limits)?);
        settings::check(&self.path, &wanted)?;
        update.check_memory(&self.path)?;
        update.keep_quota(&self.path, &mut wanted);
        settings::exchange(&self.path, &wanted, || match next {
            Some(next) => filter.replace(next, self.folder()),
            None => Ok(()),
        })
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

    /// What it has used, and the interfaces of a process if one is named.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn stats(&self, pid: Option<Pid>) -> Result<stats::Stats, CgroupError> {
        stats::gather(&self.path, pid)
    }

    /// Has the kernel stop all its processes where they are, or let them go on. It takes a while:
    /// `cgroup.events` says when it is done.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let (value, name) = if frozen { ("1", "freeze") } else { ("0", "thaw") };
        fs::write(self.path.join("cgroup.freeze"), value).map_err(operation(name, &self.path))
    }

    /// A file of it whose changes can be waited for. To be called in a runtime.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn watch(&self, file: &str) -> Result<Watched, CgroupError> {
        let path = self.path.join(file);
        Watched::open(&path).map_err(operation("watch", &path))
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
        for pid in self.processes()? {
            let sent = sys::namespace::pidfd_of(pid)
                .and_then(|pidfd| sys::process::send_signal(pidfd.as_fd(), signal));
            match sent {
                // It has ended meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(operation("signal", &self.path)(errno.into())),
            }
        }
        Ok(())
    }

    /// The processes in it and below, as the guest's first pid namespace counts them.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let mut processes = Vec::new();
        visit(&self.path, MAX_DEPTH, &mut |folder| {
            let pids = match fs::read_to_string(folder.join("cgroup.procs")) {
                Ok(pids) => pids,
                Err(error) => match error.raw_os_error() {
                    // Removed meanwhile; or it holds threads of processes that are listed above it.
                    Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => return Ok(true),
                    _ => return Err(operation("read", folder)(error)),
                },
            };
            let pids = pids.lines().filter_map(|pid| pid.parse().ok()).filter(|&pid: &i32| pid > 0);
            processes.extend(pids.take(MAX_PROCESSES - processes.len()).map(Pid::from_raw));
            Ok(processes.len() < MAX_PROCESSES)
        })?;
        Ok(processes)
    }

    /// Whether processes are in it or below.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        is_said(&self.path, "populated 1")
    }

    /// How many processes of it the kernel has killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.path.join("memory.events"));
        events.map_or(0, |events| stats::oom_kills(&events))
    }

    /// Removes it and what the container made below it. `false` while processes are in it.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn try_remove(&self) -> Result<bool, CgroupError> {
        let removed = visit(&self.path, MAX_DEPTH, &mut |folder| match fs::remove_dir(folder) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            Err(error) => Err(operation("remove", folder)(error)),
        })?;
        if removed {
            remove_empty_parents(&self.path);
        }
        Ok(removed)
    }
}

/// Calls for all folders below one and then for itself, until the answer is `false`, which is the
/// answer then. Remembers no more than the way down: a container can make very many.
fn visit(
    folder: &Path,
    depth: usize,
    call: &mut dyn FnMut(&Path) -> Result<bool, CgroupError>,
) -> Result<bool, CgroupError> {
    if let Some(depth) = depth.checked_sub(1) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && !visit(&entry.path(), depth, call)? {
                return Ok(false);
            }
        }
    }
    call(folder)
}

/// Those that were made for this path, and hold nothing else.
fn remove_empty_parents(path: &Path) {
    let kept = [Path::new(ROOT), &Path::new(ROOT).join(DEFAULT_PARENT)];
    for parent in path.ancestors().skip(1) {
        if kept.contains(&parent) || fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

/// Whether a line stands in `cgroup.events`.
fn is_said(folder: &Path, wanted: &str) -> bool {
    fs::read_to_string(folder.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == wanted))
}

/// The file for the limits' weights. The cost model is off for each disk until somebody counts on
/// it.
fn weight_file(folder: &Path, limits: &Limits) -> Result<WeightFile, CgroupError> {
    if !limits.weigh_devices() {
        return Ok(WeightFile::Cost);
    }
    if folder.join(WeightFile::Bfq.name()).exists() {
        return Ok(WeightFile::Bfq);
    }
    let costs = Path::new(ROOT).join("io.cost.qos");
    if costs.exists() {
        for device in disks() {
            fs::write(&costs, format!("{device} enable=1")).map_err(operation("set", &costs))?;
        }
    }
    Ok(WeightFile::Cost)
}

/// The numbers of the disks, `major:minor`; memory and files that play one are none.
fn disks() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            !["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind))
        })
        .filter_map(|entry| fs::read_to_string(entry.path().join("dev")).ok())
        .map(|device| device.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_visited_from_below_until_one_says_no() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::create_dir_all(root.path().join("c")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let mut seen = Vec::new();
        let whole = visit(root.path(), 2, &mut |folder| {
            seen.push(folder.to_owned());
            Ok(true)
        });
        assert!(whole.unwrap());
        let place = |name: &str| {
            let path = root.path().join(name);
            seen.iter().position(|seen| *seen == path).unwrap()
        };
        assert!(place("a/b") < place("a"));
        assert_eq!((seen.len(), seen.last().unwrap().as_path()), (4, root.path()));
        // What lies deeper than is looked at keeps those above it from being removed.
        assert!(visit(root.path(), 1, &mut |folder| Ok(fs::remove_dir(folder).is_ok())).is_ok());
        assert!(root.path().join("a/b").exists());
        let mut calls = 0;
        let stopped = visit(root.path(), 2, &mut |_| {
            calls += 1;
            Ok(false)
        });
        assert!(!stopped.unwrap());
        assert_eq!(calls, 1);
    }
}
