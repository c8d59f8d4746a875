//! What the guest has for a container beside its processes, and how it is given back.

use std::{
    fs::File,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use husk_protocols::id::ContainerId;
use nix::unistd::Pid;

use super::{Result, SupervisorError};
use crate::{
    cgroup::{Cgroup, CgroupError, CgroupPlan},
    storage::{Rootfs, RootfsPlan},
};

/// How often a cgroup is tried again whose last processes are on their way out, and how long.
const REMOVE_INTERVAL: Duration = Duration::from_millis(2);
const REMOVE_TRIES: u32 = 2500;

/// Those that the kernel takes long to take apart.
const HELD_NAMESPACES: [&str; 2] = ["mnt", "net"];

/// A container's cgroup and root, and what is held of its namespaces.
#[derive(Debug)]
pub struct Assets {
    /// Its cgroup.
    pub cgroup: Arc<Cgroup>,
    /// Its root; none in a mount namespace that is joined.
    pub rootfs: Option<Rootfs>,
    /// Mounts and interfaces stay until the container is given back: a process that ends would take
    /// them apart before its end is told.
    namespaces: Vec<OwnedFd>,
    /// Whether the container is being deleted.
    retired: AtomicBool,
}

/// Runs what blocks on a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SupervisorError::Gone)
}

impl Assets {
    /// Makes both.
    ///
    /// # Errors
    /// [`SupervisorError`]; nothing is left.
    pub async fn make(
        id: ContainerId,
        cgroup: CgroupPlan,
        rootfs: Option<RootfsPlan>,
    ) -> Result<Self> {
        blocking(move || {
            let cgroup = Cgroup::create(&cgroup)?;
            match rootfs.map(|plan| Rootfs::mount(&id, &plan)).transpose() {
                Ok(rootfs) => Ok(Self {
                    cgroup: Arc::new(cgroup),
                    rootfs,
                    namespaces: Vec::new(),
                    retired: AtomicBool::new(false),
                }),
                Err(error) => {
                    // No process was ever in it.
                    let _ = cgroup.try_remove();
                    Err(error.into())
                }
            }
        })
        .await?
    }

    /// Keeps the mounts and interfaces of a process that has made its namespaces. One that has
    /// ended meanwhile has none left to keep.
    pub fn hold_namespaces(&mut self, pid: Pid) {
        let open = |name| File::open(format!("/proc/{pid}/ns/{name}")).ok().map(OwnedFd::from);
        self.namespaces = HELD_NAMESPACES.into_iter().filter_map(open).collect();
    }

    /// Its root's mount.
    ///
    /// # Errors
    /// [`SupervisorError::NoRoot`] in a mount namespace that is joined.
    pub fn root(&self) -> Result<BorrowedFd<'_>> {
        self.rootfs.as_ref().map(Rootfs::mount_descriptor).ok_or(SupervisorError::NoRoot)
    }

    /// Tells jobs that hold this that the container goes.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether a job is to let go of it.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Kills what is left in the cgroup and gives both back.
    ///
    /// # Errors
    /// The first failure; both are tried.
    pub async fn release(self) -> Result<()> {
        let Self { cgroup, rootfs, namespaces, .. } = self;
        let emptied = remove(cgroup).await;
        let unmounted = blocking(move || {
            // The root is mounted in one of them.
            drop(namespaces);
            rootfs.map_or(Ok(()), Rootfs::unmount)
        })
        .await?;
        emptied?;
        Ok(unmounted?)
    }
}

/// Kills what is left in a cgroup and removes it.
///
/// # Errors
/// [`SupervisorError::Cgroup`].
pub async fn remove(cgroup: Arc<Cgroup>) -> Result<()> {
    let killing = cgroup.clone();
    blocking(move || killing.kill()).await??;
    for _ in 0..REMOVE_TRIES {
        let cgroup = cgroup.clone();
        if blocking(move || cgroup.try_remove()).await?? {
            return Ok(());
        }
        tokio::time::sleep(REMOVE_INTERVAL).await;
    }
    let path = cgroup.path();
    let source = std::io::ErrorKind::ResourceBusy.into();
    Err(CgroupError::Operation { operation: "empty", path, source }.into())
}
