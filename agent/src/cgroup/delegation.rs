//! A container's cgroup in the hands of its own user: config-linux.md, "Cgroup ownership". It can
//! make cgroups below then, and its limits stay the agent's.

use std::{fs, io, os::unix::fs::chown};

use super::{Cgroup, CgroupError, operation};

/// Names the files that go with the folder: Documentation/admin-guide/cgroup-v2.rst, "Delegation".
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";

impl Cgroup {
    /// Gives it to a user of the guest.
    ///
    /// # Errors
    /// [`CgroupError::Operation`].
    pub fn delegate(&self, user: u32) -> Result<(), CgroupError> {
        let give = || -> io::Result<()> {
            chown(&self.path, Some(user), None)?;
            for file in fs::read_to_string(DELEGATE)?.lines() {
                match chown(self.path.join(file), Some(user), None) {
                    // Of a controller that is not enabled.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result?,
                }
            }
            Ok(())
        };
        give().map_err(operation("delegate", &self.path))
    }
}
