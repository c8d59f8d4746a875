//! Device nodes and the links of /dev: config-linux.md, "Default Devices".

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::AtFlags,
    sys::stat::{Mode, SFlag, makedev, mknodat},
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat},
};

use super::{
    StageError,
    plan::{DevicePlan, DeviceType},
};
use crate::mount::Root;

/// Name, major, minor.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Name, target.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes what every container has.
///
/// # Errors
/// [`StageError::Path`].
pub fn make_defaults(root: &Root<'_>) -> Result<(), StageError> {
    let dev = Path::new("/dev");
    let folder = root.make_directory(dev).map_err(StageError::path("make", dev))?;
    for (name, major, minor) in NODES {
        let node = DevicePlan {
            path: dev.join(name),
            kind: DeviceType::Character,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        make_in(&folder, name.as_ref(), &node)?;
    }
    for (name, target) in LINKS {
        link(&folder, name, target)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(&folder, "core", "/proc/kcore")?;
    }
    Ok(())
}

fn link(folder: &OwnedFd, name: &str, target: &str) -> Result<(), StageError> {
    match symlinkat(target, folder, name) {
        Ok(()) => Ok(()),
        // The image's own stays, except where it would hide the container's devpts.
        Err(Errno::EEXIST) if name != "ptmx" => Ok(()),
        Err(Errno::EEXIST) => unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)
            .and_then(|()| symlinkat(target, folder, name))
            .map_err(StageError::path("link", Path::new("/dev").join(name))),
        Err(errno) => Err(StageError::path("link", Path::new("/dev").join(name))(errno)),
    }
}

/// Makes one node, and the folders above it.
///
/// # Errors
/// [`StageError::Path`].
pub fn make(root: &Root<'_>, device: &DevicePlan) -> Result<(), StageError> {
    let (folder, name) =
        root.parent(&device.path).map_err(StageError::path("make device", device.path.clone()))?;
    make_in(&folder, name, device)
}

fn make_in(
    folder: &OwnedFd,
    name: &std::ffi::OsStr,
    device: &DevicePlan,
) -> Result<(), StageError> {
    let failed = || StageError::path("make device", PathBuf::from(&device.path));
    let kind = match device.kind {
        DeviceType::Block => SFlag::S_IFBLK,
        DeviceType::Character => SFlag::S_IFCHR,
        DeviceType::Fifo => SFlag::S_IFIFO,
    };
    let mode = Mode::from_bits_truncate(device.mode);
    let number = makedev(device.major.into(), device.minor.into());
    match mknodat(folder, name, kind, mode, number) {
        Ok(()) if (device.uid, device.gid) == (0, 0) => return Ok(()),
        Ok(()) => {}
        Err(Errno::EEXIST) => {
            // It may have been made with another mode and owner: by default, or by the image.
            unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)
                .and_then(|()| mknodat(folder, name, kind, mode, number))
                .map_err(failed())?;
        }
        Err(errno) => return Err(failed()(errno)),
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed())
}
