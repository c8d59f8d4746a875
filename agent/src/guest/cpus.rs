//! Processors: Documentation/core-api/cpu_hotplug.rst. The first one stays.

use std::{fs, path::Path};

use super::{GuestError, Result};

const FOLDER: &str = "/sys/devices/system/cpu";
/// CONFIG_NR_CPUS of the largest kernel.
const MAX_CPUS: u32 = 8192;

/// How many processors there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// Those that run.
    pub online: u32,
    /// Those that are there.
    pub present: u32,
}

impl Cpus {
    /// Counts them. Blocks.
    ///
    /// # Errors
    /// [`GuestError::Call`].
    pub fn count() -> Result<Self> {
        let count =
            |list| read(list).map(|numbers| u32::try_from(numbers.len()).unwrap_or(u32::MAX));
        Ok(Self { online: count("online")?, present: count("present")? })
    }
}

fn read(list: &'static str) -> Result<Vec<u32>> {
    let text = fs::read_to_string(Path::new(FOLDER).join(list))
        .map_err(GuestError::call("read the processors that are", list))?;
    Ok(numbers(&text))
}

/// The numbers of a list such as `0-3,5`, in order.
fn numbers(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        Some(first..=last.min(MAX_CPUS))
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// Brings processors online and takes others offline, until this many run. Blocks, for as long as
/// the kernel moves work from one to another.
///
/// # Errors
/// [`GuestError`]; those that were switched before the failure stay so.
pub fn set_online(wanted: u32) -> Result<Cpus> {
    let present = read("present")?;
    let (count, limit) = (usize::try_from(wanted).unwrap_or(usize::MAX), present.len());
    if count == 0 || count > limit {
        let reason = format!("{wanted} of {limit}: at least 1 runs, and no more than there are");
        return Err(GuestError::invalid("online CPUs", reason));
    }
    let online = read("online")?;
    // First more, then fewer: in between nothing is without a processor.
    let (run, rest) = present.split_at(count);
    for &cpu in run.iter().filter(|cpu| !online.contains(cpu)) {
        switch(cpu, "1")?;
    }
    for &cpu in rest.iter().rev().filter(|cpu| online.contains(cpu)) {
        switch(cpu, "0")?;
    }
    Cpus::count()
}

fn switch(cpu: u32, state: &'static str) -> Result<()> {
    let name = format!("cpu{cpu}");
    fs::write(Path::new(FOLDER).join(&name).join("online"), state)
        .map_err(GuestError::call("switch processor", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(numbers("0-3,5\n"), [0, 1, 2, 3, 5]);
        assert_eq!(numbers("0\n"), [0]);
        assert!(numbers("\n").is_empty());
        assert!(numbers("0-4294967295").len() < 10_000);
    }
}
