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
    sys::{signal::kill, stat::Mode},
    unistd::Pid,
};

use super::{
    CgroupError, CgroupPlan, DEFAULT_PARENT, MAX_DEPTH, ROOT, block::WeightFile, devices::Filter,
    limit_depth, make_parent, operation, resources::Limits, settings, stats, update::Update,
    watch::Watched,
};

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
    /// Makes it with its limits in force. Its devices are open until [`Cgroup::filter_devices`]: what
    /// sets a container up may use those that the container may not.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing is left.
    pub fn create(plan: &CgroupPlan) -> Result<Self, CgroupError> {
        let path = Path::new(ROOT).join(&plan.path);
        let parent = Path::new(&plan.path).parent().unwrap_or(Path::new(""));
        let mut reached = PathBuf::from(ROOT);
        for part in parent.components() {
            reached.push(part);
            make_parent(&reached)?;
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
        if path.parent() == Some(Path::new(ROOT)) {
            limit_depth(path)?;
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

    /// What it has used, and the interfaces of a process.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn stats(&self, pid: Pid) -> Result<stats::Stats, CgroupError> {
        stats::gather(&self.path, Some(pid))
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
        let signal = nix::sys::signal::Signal::try_from(signal)
            .map_err(|errno| operation("signal", &self.path)(errno.into()))?;
        for pid in self.processes()? {
            match kill(pid, signal) {
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
        for folder in self.folders() {
            let pids = match fs::read_to_string(folder.join("cgroup.procs")) {
                Ok(pids) => pids,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => match error.raw_os_error() {
                    // Removed meanwhile; or it holds threads of processes that are listed above it.
                    Some(libc::ENODEV | libc::EOPNOTSUPP) => continue,
                    _ => return Err(operation("read", &folder)(error)),
                },
            };
            let pids = pids.lines().filter_map(|pid| pid.parse().ok()).filter(|&pid: &i32| pid > 0);
            processes.extend(pids.take(MAX_PROCESSES - processes.len()).map(Pid::from_raw));
        }
        Ok(processes)
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

    /// Whether processes are in it or below.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
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

/// The file for the limits' weights. The cost model is off for each disk until somebody counts on it.
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
