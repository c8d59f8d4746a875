//! The root file system of a container: an overlay of a read-only image below and a writable layer
//! above, both on block devices that the host names by serial. Knows nothing of OCI.

mod devices;
mod ids;
mod scratch;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use husk_protocols::{error::ErrorKind, id::ContainerId};
use nix::errno::Errno;

pub use devices::{Device, Serial};
pub use ids::LayerIds;
pub use scratch::FOLDER as SCRATCH_FOLDER;
use scratch::Scratch;

use crate::{
    failure::errno_kind,
    mount::{self, MountError, MountOptions},
};

/// How long a file system may take to be written back and let go of.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const UNMOUNT_INTERVAL: Duration = Duration::from_millis(2);

/// What is mounted for a container.
#[derive(Debug)]
pub struct RootfsPlan {
    /// EROFS.
    pub image: Serial,
    /// Where writes go.
    pub upper: Upper,
    /// Those of the container's user namespace, if it has one.
    pub ids: Option<LayerIds>,
}

/// The writable layer.
#[derive(Debug)]
pub enum Upper {
    /// ext4.
    Disk(Serial),
    /// Gone with the container; at most this many bytes, 0 being half of the memory.
    Tmpfs {
        /// Limit.
        bytes: u64,
    },
}

/// Why a root file system could not be made or taken down.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The device did not appear.
    #[error("no block device has the serial {0}")]
    NoDevice(Serial),
    /// One of the file systems.
    #[error("mount {what}")]
    Mount {
        /// Which.
        what: &'static str,
        /// Why not.
        #[source]
        source: MountError,
    },
    /// A folder of the writable layer or of the scratch space.
    #[error("{operation} {path}")]
    Folder {
        /// What was done.
        operation: &'static str,
        /// To which.
        path: String,
        /// The result of the call.
        #[source]
        source: Errno,
    },
    /// Something still holds it.
    #[error("unmount the writable layer on {0}: still in use")]
    Busy(String),
}

impl StorageError {
    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoDevice(_) => ErrorKind::NotFound,
            Self::Folder { source, .. } => errno_kind(*source),
            Self::Mount { source, .. } => match source {
                MountError::NoFileSystem { .. } => ErrorKind::Unsupported,
                MountError::Make { source, .. } | MountError::Step { source, .. } => {
                    errno_kind(*source)
                }
                MountError::Option { .. }
                | MountError::Source { .. }
                | MountError::NotMapped
                | MountError::NoMountPoint => ErrorKind::Internal,
            },
            Self::Busy(_) => ErrorKind::Internal,
        }
    }
}

/// A mounted root. It is not attached anywhere in the agent's own mount namespace: the last to let
/// go of it unmounts it.
#[derive(Debug)]
pub struct Rootfs {
    mount: OwnedFd,
    disk: Option<Device>,
}

fn mounting(what: &'static str) -> impl FnOnce(MountError) -> StorageError {
    move |source| StorageError::Mount { what, source }
}

impl Rootfs {
    /// Finds the devices and mounts. Blocks, for seconds when a device is late.
    ///
    /// # Errors
    /// [`StorageError`]; nothing is left.
    pub fn mount(id: &ContainerId, plan: &RootfsPlan) -> Result<Self, StorageError> {
        let (image, disk) = match &plan.upper {
            Upper::Disk(serial) => {
                let [image, disk] = Device::find([&plan.image, serial])?;
                (image, Some(disk))
            }
            Upper::Tmpfs { .. } => {
                let [image] = Device::find([&plan.image])?;
                (image, None)
            }
        };
        // The overlay clones what it is made of, but only out of the caller's namespace: both are
        // attached while it is made.
        let scratch = Scratch::new(id)?;
        let read_only =
            MountOptions { data: vec![("ro".to_owned(), None)], ..MountOptions::default() };
        let lower =
            mount::make("erofs", Some(&image.path()), &read_only).map_err(mounting("the image"))?;
        let map = plan.ids.as_ref().map(LayerIds::map).transpose()?;
        if let Some(map) = &map {
            map.apply("the image", &lower)?;
        }
        scratch.attach_lower(&lower)?;
        let upper = match (&plan.upper, &disk) {
            (Upper::Tmpfs { bytes }, _) => mount::make("tmpfs", None, &tmpfs_options(*bytes)),
            (Upper::Disk(_), disk) => {
                let path = disk.as_ref().map(Device::path);
                mount::make("ext4", path.as_deref(), &MountOptions::default())
            }
        }
        .map_err(mounting("the writable layer"))?;
        // A tmpfs cannot be mapped in Linux 6.1: there, owners are the guest's, and gone with it.
        if let (Some(map), Upper::Disk(_)) = (&map, &plan.upper) {
            map.apply("the writable layer", &upper)?;
        }
        scratch.attach_upper(&upper)?;
        scratch.make_layers(&lower)?;
        let mount = mount::make("overlay", Some("overlay"), &scratch.overlay_options())
            .map_err(mounting("the overlay"))?;
        Ok(Self { mount, disk })
    }

    /// The mount, for the second stage.
    #[must_use]
    pub fn mount_descriptor(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Lets go of it, and waits until the writable layer is written back and unmounted. Nobody else
    /// may hold it: no process of the container is left. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Busy`].
    pub fn unmount(self) -> Result<(), StorageError> {
        drop(self.mount);
        let Some(disk) = self.disk else { return Ok(()) };
        // Made and removed by the kernel with the mounted file system.
        let mounted = Path::new("/sys/fs/ext4").join(disk.name());
        let deadline = Instant::now() + UNMOUNT_DEADLINE;
        while mounted.exists() {
            if Instant::now() >= deadline {
                return Err(StorageError::Busy(disk.name().to_owned()));
            }
            thread::sleep(UNMOUNT_INTERVAL);
        }
        Ok(())
    }
}

fn tmpfs_options(bytes: u64) -> MountOptions {
    let mut data = vec![("mode".to_owned(), Some("755".to_owned()))];
    if bytes != 0 {
        data.push(("size".to_owned(), Some(bytes.to_string())));
    }
    MountOptions { data, ..MountOptions::default() }
}
