//! How many tests may run virtual machines at once on this machine, whatever runs the tests:
//! threads of one process, or processes. One locked file for each permit.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// Permits, when `HUSK_TEST_VMS` does not say.
const DEFAULT_PERMITS: usize = 3;
/// How often the permits are looked at while all are taken.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The right to run a virtual machine, until dropped.
#[derive(Debug)]
pub struct Permit {
    _locked: File,
}

fn count() -> usize {
    let wished = std::env::var("HUSK_TEST_VMS").ok().and_then(|text| text.parse().ok());
    wished.filter(|&count| count > 0).unwrap_or(DEFAULT_PERMITS)
}

fn try_any(folder: &PathBuf) -> io::Result<Option<Permit>> {
    fs::create_dir_all(folder)?;
    for number in 0..count() {
        let path = folder.join(number.to_string());
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => return Ok(Some(Permit { _locked: file })),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

impl Permit {
    /// Waits for a permit.
    ///
    /// # Errors
    /// The files that stand for them cannot be made.
    pub fn wait() -> io::Result<Self> {
        let user = nix::unistd::Uid::effective();
        let folder = std::env::temp_dir().join(format!("husk-test-permits-{user}"));
        loop {
            if let Some(permit) = try_any(&folder)? {
                return Ok(permit);
            }
            sleep(LOOK_AGAIN);
        }
    }
}
