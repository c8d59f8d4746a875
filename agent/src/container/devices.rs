//! Device nodes and the links of /dev: config-linux.md, "Default Devices". In a user namespace
//! nobody makes nodes: the guest's own of the same number are bound, with their own owner and mode,
//! as elsewhere.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, open},
    sys::stat::{Mode, SFlag, makedev, mknodat},
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat},
};

use super::{
    StageError,
    plan::{DevicePlan, DeviceType},
};
use crate::{
    mount::Root,
    sys::mount::{Depth, attach, clone_tree},
};

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

/// Where nodes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes {
    /// mknod(2).
    Made,
    /// The guest's /dev.
    Bound,
}

/// Makes what every container has.
///
/// # Errors
/// [`StageError::Path`].
pub fn make_defaults(root: &Root<'_>, source: Nodes) -> Result<(), StageError> {
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
        match source {
            Nodes::Made => make_in(&folder, name.as_ref(), &node)?,
            Nodes::Bound => bind(root, &node, &dev.join(name))?,
        }
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

/// The guest's node of a device: /sys/dev/{block,char}/MAJOR:MINOR/uevent names it.
fn guest_node(device: &DevicePlan) -> Result<PathBuf, StageError> {
    let kind = if device.kind == DeviceType::Block { "block" } else { "char" };
    let about = format!("/sys/dev/{kind}/{}:{}/uevent", device.major, device.minor);
    let about = fs::read_to_string(about).unwrap_or_default();
    match about.lines().find_map(|line| line.strip_prefix("DEVNAME=")) {
        Some(name) => Ok(Path::new("/dev").join(name)),
        None => Err(StageError::Refused {
            field: format!("linux.devices[{}]", device.path.display()),
            reason: "the guest has no such device to bind in a user namespace",
        }),
    }
}

fn bind(root: &Root<'_>, device: &DevicePlan, node: &Path) -> Result<(), StageError> {
    let place = root
        .make_file(&device.path)
        .map_err(StageError::path("make device", device.path.clone()))?;
    open(node, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|node| clone_tree(node.as_fd(), Depth::One))
        .and_then(|mount| attach(mount.as_fd(), place.as_fd()))
        .map_err(StageError::path("bind device", device.path.clone()))
}

/// Makes one node, and the folders above it.
///
/// # Errors
/// [`StageError::Path`].
pub fn make(root: &Root<'_>, device: &DevicePlan, source: Nodes) -> Result<(), StageError> {
    if source == Nodes::Bound && device.kind != DeviceType::Fifo {
        return bind(root, device, &guest_node(device)?);
    }
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
