//! Calls about the VM as a whole. They have no state.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};

use super::{Result, SupervisorError};
use crate::spec::SpecError;

/// Where the host's files lie, for bind mounts. Made at boot.
pub const FILES: &str = "/run/husk/files";

/// A file of the host.
#[derive(Debug)]
pub struct File {
    /// A single path component.
    pub name: String,
    /// Whole.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// What the host says once.
#[derive(Debug)]
pub struct Setup {
    /// The guest's own; empty to leave it.
    pub hostname: String,
    /// For bind mounts.
    pub files: Vec<File>,
    /// Since 1970; zero to leave the clock.
    pub wall_clock: Duration,
}

/// What the guest says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    /// The agent's resident memory.
    pub resident_bytes: u64,
    /// All of the guest's.
    pub memory_bytes: u64,
    /// Those that run.
    pub online_cpus: u32,
}

/// Carries a setup out. Blocks.
///
/// # Errors
/// [`SupervisorError`]; what came before the failure stays.
pub fn set_up(setup: &Setup) -> Result<()> {
    if !setup.hostname.is_empty() {
        nix::unistd::sethostname(&setup.hostname)
            .map_err(SupervisorError::step("set the host name"))?;
    }
    if !setup.wall_clock.is_zero() {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from(setup.wall_clock))
            .map_err(SupervisorError::step("set the clock"))?;
    }
    setup.files.iter().try_for_each(|file| write(Path::new(FILES), file))
}

fn write(folder: &Path, file: &File) -> Result<()> {
    let path = folder.join(component(&file.name)?);
    let write = || -> io::Result<()> {
        let mode = file.mode & 0o7777;
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&path)?;
        // The mode of one that was there, and without the umask.
        out.set_permissions(fs::Permissions::from_mode(mode))?;
        out.write_all(&file.content)
    };
    write().map_err(SupervisorError::step("write a file of the host"))
}

fn component(name: &str) -> Result<PathBuf> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(part)), None) if !name.contains(['/', '\0']) => Ok(part.into()),
        _ => Err(SpecError::invalid("files", "a name must be a single path component").into()),
    }
}

/// Looks the guest over. Blocks for as long as reads below /proc and /sys do.
///
/// # Errors
/// [`SupervisorError::Step`].
pub fn info() -> Result<Info> {
    let read = |path: &'static str| fs::read_to_string(path).map_err(SupervisorError::step(path));
    Ok(Info {
        // Counted from the page tables: statm leaves out what threads have yet to add up.
        resident_bytes: kib_of(&read("/proc/self/smaps_rollup")?, "Rss:"),
        memory_bytes: kib_of(&read("/proc/meminfo")?, "MemTotal:"),
        online_cpus: count_list(&read("/sys/devices/system/cpu/online")?),
    })
}

/// The bytes of a line like `MemTotal:  512 kB`; 0 without it.
fn kib_of(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// How many numbers are in a list such as `0-3,5`.
fn count_list(list: &str) -> u32 {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    list.trim().split(',').filter_map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_single_components() {
        for name in ["", ".", "..", "a/b", "/a", "a/", "./a", "a\0"] {
            assert!(component(name).is_err(), "{name:?}");
        }
        assert!(component("resolv.conf").is_ok());
    }

    #[test]
    fn files_have_their_mode_and_content() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["long content", "short"] {
            let file = File { name: "hosts".to_owned(), content: content.into(), mode: 0o640 };
            write(folder.path(), &file).unwrap();
            let path = folder.path().join("hosts");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        }
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_list("0-3,5\n"), 5);
        assert_eq!(count_list("0\n"), 1);
        assert_eq!(count_list("\n"), 0);
    }

    #[test]
    fn sizes_are_read_by_their_name() {
        let text = "MemTotal:  100 kB\nMemFree: 1 kB\n";
        assert_eq!(kib_of(text, "MemTotal:"), 102_400);
        assert_eq!(kib_of(text, "MemFree:"), 1024);
        assert_eq!(kib_of(text, "Swap:"), 0);
    }
}
