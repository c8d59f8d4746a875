//! What a husk installation may leave behind on a machine: processes, sockets, mounts, folders
//! half made. Reads /proc; knows an installation by its folder's name.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that belongs to an installation.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// The program's name, as the kernel has it.
    pub name: String,
    /// Its command line, joined by spaces.
    pub command: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} {}: {}", self.pid, self.name, self.command)
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Known by its environment, its command line, or a file that it has open.
fn belongs(proc: &Path, folder: &[u8]) -> bool {
    let mentions = |file: &str| fs::read(proc.join(file)).is_ok_and(|bytes| holds(&bytes, folder));
    let opens = || {
        let Ok(fds) = fs::read_dir(proc.join("fd")) else { return false };
        let targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.map(PathBuf::into_os_string).any(|target| target.as_bytes().starts_with(folder))
    };
    mentions("environ") || mentions("cmdline") || opens()
}

/// A VMM that is in its jail has no environment, and no file open by a name: its monitor is known.
fn parent_belongs(proc: &Path, folder: &[u8], own: &str) -> bool {
    let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    parent.is_some_and(|parent| parent != own && belongs(&Path::new("/proc").join(parent), folder))
}

/// Every living process of the installation below `folder`, but not the calling one.
///
/// # Panics
/// Without /proc.
#[must_use]
pub fn processes(folder: &Path) -> Vec<Process> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let pid = name.parse().ok().filter(|_| name != own)?;
        Some((pid, entry.path()))
    });
    let folder = folder.as_os_str().as_bytes();
    pids.filter(|(_, proc)| belongs(proc, folder) || parent_belongs(proc, folder, &own))
        .filter_map(|(pid, proc)| {
            let text = |file: &str| {
                let bytes = fs::read(proc.join(file)).ok()?;
                Some(String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned())
            };
            Some(Process { pid, name: text("comm")?, command: text("cmdline")? })
        })
        .collect()
}

/// Ends the processes of an installation, by their pids.
pub fn kill_all(folder: &Path) {
    for process in processes(folder) {
        // Gone meanwhile is as good.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
}

/// Everything below `folder` whose name `is_wanted`.
fn find(folder: &Path, is_wanted: &dyn Fn(&OsStr) -> bool, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if is_wanted(&entry.file_name()) {
            found.push(entry.path());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), is_wanted, found);
        }
    }
}

/// What nobody should find once no container runs and no command is at work: one line each.
/// `data` and `runtime` are the installation's folders below `folder`.
#[must_use]
pub fn of_idle(folder: &Path, data: &Path, runtime: &Path) -> Vec<String> {
    let mut lines: Vec<String> = processes(folder).iter().map(ToString::to_string).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder_text = folder.display().to_string();
    lines.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&folder_text))
            .map(|line| format!("mount {line}")),
    );
    let mut files = Vec::new();
    find(runtime, &|_| true, &mut files);
    find(&data.join("images/tmp"), &|_| true, &mut files);
    let half_made = |name: &OsStr| {
        let name = name.as_bytes();
        name.starts_with(b".new-") || name.ends_with(b".new") || name.starts_with(b".tmp")
    };
    find(data, &half_made, &mut files);
    lines.extend(files.iter().map(|path| format!("file {}", path.display())));
    lines
}
