//! Writes settings into a cgroup folder, and takes them back.

use std::{fs, io, io::Write, path::Path};

use super::{
    CgroupError,
    resources::{BY_DEVICE, Setting},
};

/// Writes all of them.
///
/// # Errors
/// The first that the kernel does not take; the others may be in force.
pub fn write_all(folder: &Path, settings: &[Setting]) -> Result<(), CgroupError> {
    let mut early = Vec::new();
    for (file, value) in settings {
        match write(folder, file, value) {
            // It may fit once the others are there: a quota and its burst, in either direction.
            Err(error) if is_misfit(&error) => early.push((file, value)),
            result => result?,
        }
    }
    early.into_iter().try_for_each(|(file, value)| write(folder, file, value))
}

fn is_misfit(error: &CgroupError) -> bool {
    matches!(error, CgroupError::Value { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
}

fn write(folder: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    // Nothing at all would be no write.
    let line = if value.is_empty() { "\n" } else { value };
    let write =
        || fs::OpenOptions::new().write(true).open(folder.join(file))?.write_all(line.as_bytes());
    match write() {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => missing(folder, file),
        Err(source) => {
            Err(CgroupError::Value { file: file.to_owned(), value: value.to_owned(), source })
        }
    }
}

/// Finds out that a file is not there before anything is written.
///
/// # Errors
/// [`CgroupError`] with the file, and the kernel option that it needs.
pub fn check(folder: &Path, settings: &[Setting]) -> Result<(), CgroupError> {
    settings
        .iter()
        .filter(|(file, _)| !folder.join(file).exists())
        .try_for_each(|(file, _)| missing(folder, file))
}

fn missing(folder: &Path, file: &str) -> Result<(), CgroupError> {
    if let Some(option) = option_of_file(file) {
        // A guest without swap keeps every limit of it.
        return if file == "memory.swap.max" {
            Ok(())
        } else {
            Err(CgroupError::NoController { file: file.to_owned(), option })
        };
    }
    let controller = file.split('.').next().unwrap_or_default();
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    let is_there = controllers.split_whitespace().any(|name| name == controller);
    match (is_there, option_of_controller(controller)) {
        (false, Some(option)) => Err(CgroupError::NoController { file: file.to_owned(), option }),
        (true, _) if controller == "hugetlb" => {
            Err(CgroupError::NoPageSize(file.split('.').nth(1).unwrap_or_default().to_owned()))
        }
        _ => Err(CgroupError::NoFile(file.to_owned())),
    }
}

/// The kernel option of a file that not every kernel with its controller has.
fn option_of_file(file: &str) -> Option<&'static str> {
    Some(match file {
        "cpu.max" | "cpu.max.burst" => "CONFIG_CFS_BANDWIDTH",
        "cpu.uclamp.min" | "cpu.uclamp.max" => "CONFIG_UCLAMP_TASK_GROUP",
        "io.max" => "CONFIG_BLK_DEV_THROTTLING",
        "io.weight" => "CONFIG_BLK_CGROUP_IOCOST",
        "io.bfq.weight" => "CONFIG_BFQ_GROUP_IOSCHED",
        "io.latency" => "CONFIG_BLK_CGROUP_IOLATENCY",
        "io.prio.class" => "CONFIG_BLK_CGROUP_IOPRIO",
        _ if file.starts_with("memory.swap.") => "CONFIG_SWAP",
        _ if file.starts_with("memory.zswap.") => "CONFIG_ZSWAP",
        _ if file.ends_with(".pressure") => "CONFIG_PSI",
        _ => return None,
    })
}

fn option_of_controller(controller: &str) -> Option<&'static str> {
    Some(match controller {
        "memory" => "CONFIG_MEMCG",
        "cpu" => "CONFIG_FAIR_GROUP_SCHED",
        "cpuset" => "CONFIG_CPUSETS",
        "pids" => "CONFIG_CGROUP_PIDS",
        "io" => "CONFIG_BLK_CGROUP",
        "hugetlb" => "CONFIG_CGROUP_HUGETLB",
        "rdma" => "CONFIG_CGROUP_RDMA",
        "misc" => "CONFIG_CGROUP_MISC",
        _ => return None,
    })
}

/// Writes all of them, or none: what was there before is written back when one fails.
///
/// # Errors
/// As [`write_all`]; [`CgroupError::Kept`] when a file could not be set back.
pub fn exchange(
    folder: &Path,
    settings: &[Setting],
    finish: impl FnOnce() -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let former: Vec<Setting> =
        settings.iter().filter_map(|setting| former(folder, setting)).collect();
    let Err(error) = write_all(folder, settings).and_then(|()| finish()) else { return Ok(()) };
    let mut kept: Vec<String> = Vec::new();
    for (file, value) in former.iter().rev() {
        if write(folder, file, value).is_err() {
            kept.push(file.clone());
        }
    }
    if kept.is_empty() {
        return Err(error);
    }
    Err(CgroupError::Kept { files: kept.join(", "), source: Box::new(error) })
}

/// What undoes a setting.
fn former(folder: &Path, (file, value): &Setting) -> Option<Setting> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    Some((file.clone(), undo(file, &text, value)?))
}

/// The line that undoes `value`, in a file that reads `text`.
fn undo(file: &str, text: &str, value: &str) -> Option<String> {
    if !BY_DEVICE.contains(&file) {
        let text = text.trim();
        // An idle cgroup shows no weight, and takes none.
        return (file != "cpu.weight" || text != "0").then(|| text.to_owned());
    }
    let key = value.split_whitespace().next()?;
    let key = if key.contains(|c: char| !c.is_ascii_digit()) { key } else { "default" };
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
    match (line, file) {
        (Some(line), _) => Some(line.to_owned()),
        (None, "io.max") => Some(format!("{key} rbps=max wbps=max riops=max wiops=max")),
        (None, "io.weight" | "io.bfq.weight") => Some(format!("{key} default")),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoing_gives_back_what_was_there() {
        for (file, text, value, undone) in [
            ("memory.max", "max\n", "5", "max"),
            ("cpu.max", "max 100000\n", "5", "max 100000"),
            ("cpuset.cpus", "\n", "0", ""),
            ("io.max", "", "254:0 rbps=5", "254:0 rbps=max wbps=max riops=max wiops=max"),
            ("io.max", "254:0 rbps=7 wbps=max\n", "254:0 rbps=5", "254:0 rbps=7 wbps=max"),
            ("io.weight", "default 100\n", "default 7", "default 100"),
            ("io.weight", "default 100\n", "7", "default 100"),
            ("io.weight", "default 100\n254:0 9\n", "254:0 7", "254:0 9"),
            ("io.weight", "default 100\n", "254:0 7", "254:0 default"),
        ] {
            assert_eq!(undo(file, text, value).as_deref(), Some(undone), "{file} {value}");
        }
        assert_eq!(undo("cpu.weight", "0\n", "5"), None);
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, content) in files {
            fs::write(folder.path().join(file), content).unwrap();
        }
        folder
    }

    fn setting(file: &str, value: &str) -> Setting {
        (file.to_owned(), value.to_owned())
    }

    #[test]
    fn failure_at_the_end_sets_everything_back() {
        let folder = folder(&[("memory.max", "max\n"), ("pids.max", "100\n")]);
        let settings = [setting("memory.max", "5"), setting("pids.max", "7")];
        let failed = || Err(CgroupError::NoFile("x".to_owned()));
        let error = exchange(folder.path(), &settings, failed).unwrap_err();
        assert!(matches!(error, CgroupError::NoFile(_)), "{error}");
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        // A plain file is not cut off by a shorter text, as a cgroup's is not.
        assert!(read("memory.max").starts_with("max"));
        assert!(read("pids.max").starts_with("100"));
    }

    #[test]
    fn file_that_is_missing_is_told_with_what_it_needs() {
        let folder = folder(&[("cgroup.controllers", "cpu memory hugetlb\n")]);
        for (file, part) in [
            ("rdma.max", "CONFIG_CGROUP_RDMA"),
            ("io.weight", "CONFIG_BLK_CGROUP_IOCOST"),
            ("io.latency", "CONFIG_BLK_CGROUP_IOLATENCY"),
            ("pids.max", "CONFIG_CGROUP_PIDS"),
            ("hugetlb.1GB.max", "no huge pages of 1GB"),
            ("memory.unknown", "memory.unknown"),
            ("nothing.max", "nothing.max"),
        ] {
            let error = check(folder.path(), &[setting(file, "1")]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        check(folder.path(), &[setting("memory.swap.max", "1")]).unwrap();
    }
}
