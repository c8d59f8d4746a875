//! How much memory the process uses, and how much of it is the guest's: by `/proc/self/smaps`,
//! which is opened before there is no `/proc` any more. proc_pid_smaps(5).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};

use crate::control::MemoryUse;

/// By this name guest memory appears among the mappings.
const GUEST_MEMORY: &str = "/memfd:guest-memory";

/// See the module.
#[derive(Debug)]
pub struct Meter {
    smaps: File,
}

impl Meter {
    /// Opens what is read later.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open() -> io::Result<Self> {
        Ok(Self { smaps: File::open("/proc/self/smaps")? })
    }

    /// The file, to be kept open.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.smaps
    }

    /// Measures. Takes time in proportion to the memory that was touched.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn measure(&mut self) -> io::Result<MemoryUse> {
        self.smaps.seek(SeekFrom::Start(0))?;
        sum(BufReader::new(&self.smaps))
    }
}

fn sum(smaps: impl BufRead) -> io::Result<MemoryUse> {
    let mut sum = MemoryUse::default();
    let mut guest = false;
    for line in smaps.lines() {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { continue };
        // A mapping's first line has addresses where others have a name: `a-b r--p 0 00:01 5 PATH`.
        if name.contains(' ') {
            guest = line.contains(GUEST_MEMORY);
        } else if name == "Pss" {
            let kib = value.trim().trim_end_matches(" kB").parse().unwrap_or(0_u64);
            let part = if guest { &mut sum.guest_kib } else { &mut sum.own_kib };
            *part = part.saturating_add(kib);
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Ram, Size};
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn touched_memory_of_the_guest_is_told_apart_from_the_rest() {
        let ram = Ram::create(Size { mib: 32, hotplug_mib: 0 }).unwrap();
        ram.guest().write_slice(&[1; 1 << 20], GuestAddress(1 << 20)).unwrap();
        let mut meter = Meter::open().unwrap();
        for _ in 0..2 {
            let found = meter.measure().unwrap();
            assert!((1024..32 << 10).contains(&found.guest_kib), "{found:?}");
            assert!(found.own_kib > 0, "{found:?}");
        }
    }

    #[test]
    fn shares_are_summed_by_mapping() {
        let text = "\
55d0a000-55d0b000 r--p 00000000 fe:00 123 /usr/bin/a:b
Size:                  4 kB
Pss:                   3 kB
Pss_Dirty:             1 kB
7f00a000-7f10b000 rw-s 00000000 00:01 9 /memfd:guest-memory (deleted)
Pss:                1000 kB
7f20a000-7f20b000 rw-p 00000000 00:00 0
Pss:                  10 kB
";
        let found = sum(text.as_bytes()).unwrap();
        assert_eq!(found, MemoryUse { own_kib: 13, guest_kib: 1000 });
    }
}
