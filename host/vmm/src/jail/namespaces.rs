//! Namespaces of the process's own, with nothing in them. namespaces(7).

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

use super::Layer;

/// What is left of a host that can be left behind. A PID namespace would only hold children, of
/// which there are none.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// Where the new root is put together: a folder of every host that has `/dev/kvm`.
const MOUNT_POINT: &str = "/dev";

/// Which namespaces the process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    /// Those of [`NAMESPACES`], by the host's leave.
    Own,
    /// The same, and a user namespace without any user in it, in which the process may do so.
    OwnAndUser,
    /// The host's: it refuses the others.
    Host(Errno),
}

impl Namespaces {
    pub fn layer(self) -> Layer {
        match self {
            Self::Own | Self::OwnAndUser => Layer::Holds,
            Self::Host(error) => Layer::missing("unshare", &error.desc()),
        }
    }
}

/// Enters the namespaces; without privileges by way of a user namespace, which a host may forbid
/// (EPERM), limit (ENOSPC, EUSERS) or lack (EINVAL).
pub fn enter() -> Namespaces {
    if unshare(NAMESPACES).is_ok() {
        return Namespaces::Own;
    }
    // No identities are mapped: nothing is to be owned in there, and the maps' files belong to root
    // where a process cannot be dumped.
    match unshare(CloneFlags::CLONE_NEWUSER | NAMESPACES) {
        Ok(()) => Namespaces::OwnAndUser,
        Err(error) => Namespaces::Host(error),
    }
}

/// Replaces the root by an empty folder that nobody can write to, and lets go of the old one.
pub fn empty_root(namespaces: &Namespaces) -> Layer {
    // Whatever folder the process was started in is not held any longer.
    let left = chdir("/");
    if let Namespaces::Host(_) = namespaces {
        return Layer::Missing { reason: "no mount namespace".into() };
    }
    match left.and_then(|()| replace_root()) {
        Ok(()) => Layer::Holds,
        Err(error) => Layer::missing("replace the root", &error.desc()),
    }
}

/// pivot_root(2), "pivot_root(".", ".")": the old root lies on top of the new one until it is
/// detached, so no folder is needed for it.
fn replace_root() -> Result<(), Errno> {
    let nothing = None::<&str>;
    // What is mounted here is not to appear on the host, nor the other way.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), MOUNT_POINT, Some("tmpfs"), flags, Some("size=4k,nr_inodes=1,mode=111"))?;
    chdir(MOUNT_POINT)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}
