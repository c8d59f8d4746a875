//! What the process takes of the host at most: getrlimit(2). Set before the jail, and for ever: no
//! filter has a call that would raise it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors: each stream of the guest is one. Hosts allow 1024 by default, which is as many
/// streams as there may be, and nothing beside; some allow a million.
const OPEN_FILES: u64 = 2048;
/// Bytes beside the guest's memory, which is shared and does not count. The buffers of all streams
/// take 62 MiB, and the stacks of the largest machine's threads some 200.
const OWN_MEMORY: u64 = 1 << 30;

/// Sets the limits, or those that the host has for us where they are lower.
pub fn set() -> nix::Result<()> {
    for (resource, most) in
        [(Resource::RLIMIT_NOFILE, OPEN_FILES), (Resource::RLIMIT_DATA, OWN_MEMORY)]
    {
        let (_, hard) = getrlimit(resource)?;
        let limit = most.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}
