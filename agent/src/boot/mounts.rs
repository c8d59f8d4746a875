//! The agent's own root, and the file systems of the kernel.

use std::path::Path;

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::stat::Mode,
    unistd::{chdir, chroot, mkdir},
};

use super::BootError;
use crate::{
    container::ROOT_MOUNT_POINT,
    storage::SCRATCH_FOLDER,
    supervisor::{BUNDLES, sandbox},
};

const ROOT: &str = "/root";
const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// Programs of the host lie there: hooks.
const PROGRAMS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

struct PseudoFilesystem {
    fstype: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
}

const fn pseudo(
    fstype: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
) -> PseudoFilesystem {
    PseudoFilesystem { fstype, target, flags, options }
}

const PSEUDO_FILESYSTEMS: [PseudoFilesystem; 6] = [
    pseudo("proc", "/proc", PLAIN, None),
    pseudo("sysfs", "/sys", PLAIN, None),
    pseudo("devtmpfs", "/dev", DEVICES, Some("mode=755")),
    pseudo("devpts", "/dev/pts", DEVICES, Some("mode=620,ptmxmode=666,gid=5")),
    pseudo("tmpfs", "/run", PROGRAMS, Some("mode=755")),
    pseudo("tmpfs", "/tmp", PLAIN, Some("mode=1777")),
];

const CGROUPS: PseudoFilesystem = pseudo("cgroup2", "/sys/fs/cgroup", PLAIN, None);
/// Documentation/RCU: /sys/kernel/rcu_expedited.
const RCU_EXPEDITED: &str = "/sys/kernel/rcu_expedited";

fn failed(what: &'static str) -> impl FnOnce(Errno) -> BootError {
    move |source| BootError::Mount { what, source }
}

/// The image may have the folder already.
fn make(folder: &'static str) -> Result<(), BootError> {
    match mkdir(folder, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(failed(folder)(errno)),
    }
}

/// Puts a mount over the root that the kernel started with, which nobody can pivot from:
/// pivot_root(2), "EINVAL". Its files are the same; nothing is copied.
pub fn move_root() -> Result<(), BootError> {
    make(ROOT)?;
    let none = None::<&Path>;
    mount(Some("/"), ROOT, none, MsFlags::MS_BIND, none).map_err(failed("a root of its own"))?;
    chdir(ROOT)
        .and_then(|()| mount(Some(ROOT), "/", none, MsFlags::MS_MOVE, none))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(failed("a root of its own"))
}

impl PseudoFilesystem {
    fn mount(&self) -> Result<(), BootError> {
        let Self { fstype, target, flags, options } = *self;
        mount(Some(fstype), target, Some(fstype), flags, options).map_err(failed(target))
    }
}

/// What the kernel shows of itself, but control groups.
pub fn mount_pseudo_filesystems() -> Result<(), BootError> {
    PSEUDO_FILESYSTEMS.iter().try_for_each(|filesystem| {
        make(filesystem.target)?;
        filesystem.mount()
    })
}

/// Lets the kernel interrupt its few processors instead of waiting for them, whenever it changes
/// mounts, namespaces or control groups: some milliseconds each time.
pub fn hasten_grace_periods() {
    // Without it everything works, and slower.
    let _ = std::fs::write(RCU_EXPEDITED, "1");
}

/// Control groups, in the folder that sysfs has for them.
pub fn mount_cgroups() -> Result<(), BootError> {
    CGROUPS.mount()
}

/// What the agent works in.
pub fn make_folders() -> Result<(), BootError> {
    ["/run/husk", ROOT_MOUNT_POINT, SCRATCH_FOLDER, sandbox::FILES, BUNDLES]
        .into_iter()
        .try_for_each(make)
}
