//! Mounts as values: options parsed once, file systems made as detached descriptors, destinations
//! resolved inside a root that may be hostile. Knows nothing of containers.

mod options;
mod resolve;

pub use options::{MountOptions, Propagation};
pub use resolve::{Root, is_on};

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use crate::sys::mount::{self, Attributes, Depth, FsContext, clone_tree, set_attributes};

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel lacks the file system.
    #[error("the guest kernel has no file system {fstype} ({option})")]
    NoFileSystem {
        /// Its name.
        fstype: String,
        /// The kernel's configuration option.
        option: String,
    },
    /// The file system refused an option.
    #[error("option {option}{}", detail(.message.as_deref()))]
    Option {
        /// As given.
        option: String,
        /// The kernel's own words.
        message: Option<String>,
        /// The result of the call.
        #[source]
        source: Errno,
    },
    /// The file system could not be made.
    #[error("make {fstype}{}", detail(.message.as_deref()))]
    Make {
        /// Its name.
        fstype: String,
        /// The kernel's own words.
        message: Option<String>,
        /// The result of the call.
        #[source]
        source: Errno,
    },
    /// The source of a bind mount cannot be opened.
    #[error("open {}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// The result of the call.
        #[source]
        source: Errno,
    },
    /// Ids cannot be mapped.
    #[error("map ids: the guest kernel cannot map those of this file system")]
    NotMapped,
    /// Nothing is mounted there.
    #[error("remount: it is no mount point")]
    NoMountPoint,
    /// A step on the mount itself.
    #[error("{step}")]
    Step {
        /// Which.
        step: &'static str,
        /// The result of the call.
        #[source]
        source: Errno,
    },
}

fn detail(message: Option<&str>) -> String {
    message.map(|text| format!(" ({text})")).unwrap_or_default()
}

/// Names the step that a call was for.
pub fn step(step: &'static str) -> impl FnOnce(Errno) -> MountError {
    move |source| MountError::Step { step, source }
}

/// The option of the kernel's configuration that brings a file system.
fn kernel_option(fstype: &str) -> String {
    match fstype {
        "mqueue" => "CONFIG_POSIX_MQUEUE".to_owned(),
        "devpts" => "CONFIG_UNIX98_PTYS".to_owned(),
        "cgroup2" => "CONFIG_CGROUPS".to_owned(),
        "overlay" => "CONFIG_OVERLAY_FS".to_owned(),
        "fuse" | "fuseblk" => "CONFIG_FUSE_FS".to_owned(),
        "virtiofs" => "CONFIG_VIRTIO_FS".to_owned(),
        "bpf" => "CONFIG_BPF_SYSCALL".to_owned(),
        "tracefs" => "CONFIG_FTRACE".to_owned(),
        "debugfs" => "CONFIG_DEBUG_FS".to_owned(),
        "nfs4" => "CONFIG_NFS_V4".to_owned(),
        "cifs" | "smb3" => "CONFIG_CIFS".to_owned(),
        "hugetlbfs" | "securityfs" | "squashfs" | "pstore" | "binfmt_misc" => {
            format!("CONFIG_{}", fstype.to_ascii_uppercase())
        }
        other => {
            let name: String = other.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
            format!("CONFIG_{}_FS", name.to_ascii_uppercase())
        }
    }
}

/// Makes a file system and a detached mount of it.
///
/// # Errors
/// [`MountError`] with what the kernel says.
pub fn make(
    fstype: &str,
    source: Option<&str>,
    options: &MountOptions,
) -> Result<OwnedFd, MountError> {
    let context = FsContext::open(fstype).map_err(|errno| match errno {
        Errno::ENODEV => {
            MountError::NoFileSystem { fstype: fstype.to_owned(), option: kernel_option(fstype) }
        }
        source => MountError::Make { fstype: fstype.to_owned(), message: None, source },
    })?;
    let source = source.map(|source| ("source", Some(source)));
    let data = options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
    for (key, value) in source.into_iter().chain(data) {
        context.set(key, value).map_err(|source| MountError::Option {
            option: value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}")),
            message: context.message(),
            source,
        })?;
    }
    context.mount(options.set).map_err(|source| MountError::Make {
        fstype: fstype.to_owned(),
        message: context.message(),
        source,
    })
}

/// A detached copy of what is mounted at `source` in the caller's namespace, with the options'
/// attributes.
///
/// # Errors
/// [`MountError`].
pub fn bind(
    source: &std::path::Path,
    depth: Depth,
    options: &MountOptions,
) -> Result<OwnedFd, MountError> {
    let from = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| MountError::Source { path: source.to_owned(), source: errno })?;
    let mount = clone_tree(from.as_fd(), depth).map_err(step("bind"))?;
    change(&mount, Depth::One, options.set, options.clear)?;
    Ok(mount)
}

/// Shows the files of a detached mount under other owners: those that a user namespace maps theirs
/// to.
///
/// # Errors
/// [`MountError::NotMapped`], or [`MountError::Step`].
pub fn map_ids(
    mount: &OwnedFd,
    user_namespace: BorrowedFd<'_>,
    depth: Depth,
) -> Result<(), MountError> {
    mount::map_ids(mount.as_fd(), user_namespace, depth).map_err(|errno| match errno {
        Errno::EINVAL => MountError::NotMapped,
        errno => step("map ids")(errno),
    })
}

/// Changes the attributes of what is mounted at a place. Those that the options do not name stay.
///
/// # Errors
/// [`MountError::NoMountPoint`], or [`MountError::Step`].
pub fn remount(place: &OwnedFd, options: &MountOptions) -> Result<(), MountError> {
    // With nothing to change the call is made all the same: it finds out what the place is.
    let change = Attributes { set: options.set, clear: options.clear, propagation: 0 };
    set_attributes(place.as_fd(), change, Depth::One).map_err(|errno| match errno {
        Errno::EINVAL => MountError::NoMountPoint,
        errno => step("set attributes")(errno),
    })
}

/// Applies what an attached mount can still be told: recursive attributes and propagation.
///
/// # Errors
/// [`MountError::Step`].
pub fn finish(mount: &OwnedFd, options: &MountOptions) -> Result<(), MountError> {
    change(mount, Depth::Tree, options.set_all, options.clear_all)?;
    if let Some((propagation, depth)) = options.propagation {
        propagate(mount, propagation, depth)?;
    }
    Ok(())
}

/// Sets how mounts below travel between namespaces.
///
/// # Errors
/// [`MountError::Step`].
pub fn propagate(
    mount: &OwnedFd,
    propagation: Propagation,
    depth: Depth,
) -> Result<(), MountError> {
    let change = Attributes { propagation: propagation.flag(), ..Attributes::default() };
    set_attributes(mount.as_fd(), change, depth).map_err(step("set propagation"))
}

fn change(mount: &OwnedFd, depth: Depth, set: u64, clear: u64) -> Result<(), MountError> {
    if set == 0 && clear == 0 {
        return Ok(());
    }
    let change = Attributes { set, clear, propagation: 0 };
    set_attributes(mount.as_fd(), change, depth).map_err(step("set attributes"))
}

/// Makes a mount read-only.
///
/// # Errors
/// [`MountError::Step`].
pub fn make_read_only(mount: &OwnedFd, depth: Depth) -> Result<(), MountError> {
    change(mount, depth, options::RDONLY, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_file_system_names_the_kernel_option() {
        assert_eq!(kernel_option("nfs"), "CONFIG_NFS_FS");
        assert_eq!(kernel_option("mqueue"), "CONFIG_POSIX_MQUEUE");
        assert_eq!(kernel_option("squashfs"), "CONFIG_SQUASHFS");
        assert_eq!(kernel_option("a\nb/../c"), "CONFIG_ABC_FS");
    }
}
