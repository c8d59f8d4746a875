//! The container's file system: mounts, devices, hidden paths, and the move into it. All paths are
//! resolved inside the root, since the image is not trusted.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, umount2},
    sys::{
        stat::{FileStat, Mode, SFlag, fstat, umask},
        statfs::PROC_SUPER_MAGIC,
    },
    unistd::{chdir, fchdir, pivot_root},
};

use super::{
    CGROUP_ROOT, ROOT_MOUNT_POINT, StageError, copy_up,
    devices::{self, Nodes},
    hidden,
    plan::{IdMap, InitPlan, MountKind, MountPlan},
    terminal::Terminal,
};
use crate::{
    mount::{self, MountOptions, Root},
    sys::{
        mount::{Depth, attach},
        user_namespace,
    },
};

/// Builds everything below the mount `root_mount` and makes it the caller's root. Returns the
/// terminal when the process wants one. `before_root` is called when all mounts and devices are
/// there and nothing is hidden yet: what it adds below the root is hidden too.
///
/// # Errors
/// [`StageError`]. Nothing outside of the caller's mount namespace is touched but files of the
/// container's own writable layer.
pub fn enter(
    plan: &InitPlan,
    cgroup: &str,
    root_mount: OwnedFd,
    before_root: impl FnOnce() -> Result<(), StageError>,
) -> Result<Option<Terminal>, StageError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let place = open(ROOT_MOUNT_POINT, flags, Mode::empty())
        .map_err(StageError::path("open", ROOT_MOUNT_POINT))?;
    attach(root_mount.as_fd(), place.as_fd()).map_err(StageError::step("attach the root"))?;
    // Modes are meant as they are written.
    umask(Mode::empty());
    let root = Root::new(root_mount.as_fd());
    let builder = Builder { root: &root, own: stat(&root_mount)?, plan, cgroup };
    let read_only = builder.mounts()?;
    let terminal = builder.devices()?;
    make_cwd(&root, plan)?;
    before_root()?;
    hidden::make_read_only(&root, &plan.readonly_paths)?;
    hidden::mask(&root, &plan.masked_paths)?;
    for (destination, mount) in read_only {
        mount::make_read_only(&mount, Depth::One).map_err(StageError::mount(destination))?;
    }
    if plan.root.read_only {
        mount::make_read_only(&root_mount, Depth::One).map_err(StageError::mount("/"))?;
    }
    pivot(&root_mount)?;
    if let Some((propagation, tree)) = plan.root.propagation {
        let depth = if tree { Depth::Tree } else { Depth::One };
        mount::propagate(&root_mount, propagation, depth).map_err(StageError::mount("/"))?;
    }
    Ok(terminal)
}

/// `process.cwd`, when the image lacks it. What is in its way is said by the later chdir.
fn make_cwd(root: &Root<'_>, plan: &InitPlan) -> Result<(), StageError> {
    let cwd = &plan.process.cwd;
    root.make_directory(cwd)
        .map(drop)
        .map_err(|source| StageError::WorkingDirectory { path: cwd.clone(), source })
}

/// The old root ends up above the new one, and is taken off: pivot_root(2), "pivot_root(".", ".")".
fn pivot(root: &OwnedFd) -> Result<(), StageError> {
    fchdir(root)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"))
        .map_err(StageError::step("pivot into the root"))
}

fn stat(file: &OwnedFd) -> Result<FileStat, StageError> {
    fstat(file).map_err(StageError::step("stat a mount point"))
}

fn is_directory(file: &FileStat) -> bool {
    SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

struct Builder<'a> {
    root: &'a Root<'a>,
    /// The root folder itself.
    own: FileStat,
    plan: &'a InitPlan,
    cgroup: &'a str,
}

/// Mounts that become read-only at the end, because the stage still writes to them.
type Deferred = Vec<(PathBuf, OwnedFd)>;

impl Builder<'_> {
    fn mounts(&self) -> Result<Deferred, StageError> {
        let mut deferred = Vec::new();
        for plan in &self.plan.mounts {
            let later = is_filled_later(plan) && plan.options.is_read_only();
            let options = if later { plan.options.writable() } else { plan.options.clone() };
            let mount = self.mount(plan, &options)?;
            if later {
                deferred.push((plan.destination.clone(), mount));
            }
        }
        Ok(deferred)
    }

    fn mount(&self, plan: &MountPlan, options: &MountOptions) -> Result<OwnedFd, StageError> {
        let failed = StageError::mount(plan.destination.clone());
        let (mount, place) = match &plan.kind {
            MountKind::Bind { source, recursive } => {
                let depth = if *recursive { Depth::Tree } else { Depth::One };
                let mount = mount::bind(source, depth, options).map_err(failed)?;
                let place = self.place(plan, is_directory(&stat(&mount)?))?;
                (mount, place)
            }
            MountKind::Cgroup => (self.cgroup_mount(options).map_err(failed)?, self.folder(plan)?),
            MountKind::Kernel { fstype } => {
                let place = self.plain_folder(plan)?;
                (mount::make(fstype, Some(fstype), options).map_err(failed)?, place)
            }
            MountKind::Filesystem { fstype, source } => {
                let (place, options) = self.folder_for(plan, fstype, options)?;
                let mount = mount::make(fstype, source.as_deref(), &options).map_err(failed)?;
                if options.copy_up {
                    copy_up::copy(&place, &mount)
                        .map_err(StageError::path("copy up", plan.destination.clone()))?;
                }
                (mount, place)
            }
            MountKind::Remount => return self.remount(plan, options),
        };
        self.check(plan, &place)?;
        if let Some(map) = &plan.id_map {
            map_ids(&mount, map).map_err(StageError::mount(plan.destination.clone()))?;
        }
        attach(mount.as_fd(), place.as_fd())
            .map_err(mount::step("attach"))
            .and_then(|()| mount::finish(&mount, options))
            .map_err(StageError::mount(plan.destination.clone()))?;
        Ok(mount)
    }

    fn remount(&self, plan: &MountPlan, options: &MountOptions) -> Result<OwnedFd, StageError> {
        let place = self
            .root
            .find(&plan.destination)
            .map_err(StageError::path("find mount point", plan.destination.clone()))?;
        mount::remount(&place, options)
            .and_then(|()| mount::finish(&place, options))
            .map_err(StageError::mount(plan.destination.clone()))?;
        Ok(place)
    }

    /// With a namespace of its own the container sees its part as the whole; without one, it gets
    /// only its part.
    fn cgroup_mount(&self, options: &MountOptions) -> Result<OwnedFd, mount::MountError> {
        if self.plan.namespaces.cgroup {
            mount::make("cgroup2", Some("cgroup"), options)
        } else if let Some((key, _)) = options.data.first() {
            // It is the guest's own file system that the container would set.
            let (option, message) = (key.clone(), None);
            Err(mount::MountError::Option { option, message, source: Errno::EPERM })
        } else {
            mount::bind(&Path::new(CGROUP_ROOT).join(self.cgroup), Depth::One, options)
        }
    }

    fn place(&self, plan: &MountPlan, directory: bool) -> Result<OwnedFd, StageError> {
        if directory {
            return self.folder(plan);
        }
        self.root
            .make_file(&plan.destination)
            .map_err(StageError::path("make mount point", plan.destination.clone()))
    }

    fn folder(&self, plan: &MountPlan) -> Result<OwnedFd, StageError> {
        self.root
            .make_directory(&plan.destination)
            .map_err(StageError::path("make mount point", plan.destination.clone()))
    }

    /// An existing folder gives its mode to the tmpfs over it, as elsewhere.
    fn folder_for(
        &self,
        plan: &MountPlan,
        fstype: &str,
        options: &MountOptions,
    ) -> Result<(OwnedFd, MountOptions), StageError> {
        let mut options = options.clone();
        if options.is_read_only() && is_on_device(plan) {
            // A device that cannot be written to is not mounted otherwise.
            options.data.push(("ro".to_owned(), None));
        }
        if fstype == "tmpfs"
            && let Ok(place) = self.root.open(&plan.destination, OFlag::O_PATH)
        {
            let mode = format!("{:o}", stat(&place)?.st_mode & 0o7777);
            options.data.insert(0, ("mode".to_owned(), Some(mode)));
            return Ok((place, options));
        }
        Ok((self.folder(plan)?, options))
    }

    /// proc and sysfs carry the masked and read-only paths: a link would lead those astray.
    fn plain_folder(&self, plan: &MountPlan) -> Result<OwnedFd, StageError> {
        self.folder(plan)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        self.root.open_plain(&plan.destination, flags).map_err(|errno| match errno {
            Errno::ELOOP => refused(plan, "must be a plain folder, the image has a symbolic link"),
            errno => StageError::path("open mount point", plan.destination.clone())(errno),
        })
    }

    fn check(&self, plan: &MountPlan, place: &OwnedFd) -> Result<(), StageError> {
        let file = stat(place)?;
        if (file.st_dev, file.st_ino) == (self.own.st_dev, self.own.st_ino) {
            return Err(refused(plan, "leads to the root of the image"));
        }
        let on_proc = is_on_proc(place)?;
        if on_proc && !plan.is_allowed_on_proc() {
            return Err(refused(plan, "leads into /proc"));
        }
        Ok(())
    }

    fn devices(&self) -> Result<Option<Terminal>, StageError> {
        let bound = self.plan.mounts.iter().any(|mount| {
            mount.destination == Path::new("/dev") && matches!(mount.kind, MountKind::Bind { .. })
        });
        if !bound {
            let nodes = if self.plan.namespaces.user { Nodes::Bound } else { Nodes::Made };
            devices::make_defaults(self.root, nodes)?;
            for device in &self.plan.devices {
                devices::make(self.root, device, nodes)?;
            }
        }
        if self.plan.process.terminal.is_none() {
            return Ok(None);
        }
        let terminal = Terminal::open_in(self.root)?;
        if !bound {
            terminal.bind_console(self.root)?;
        }
        Ok(Some(terminal))
    }
}

/// The nodes of /dev are still to be made, and in any tmpfs the mount points of those after it.
fn is_filled_later(plan: &MountPlan) -> bool {
    let is_tmpfs = matches!(&plan.kind, MountKind::Filesystem { fstype, .. } if fstype == "tmpfs");
    is_tmpfs || plan.destination == Path::new("/dev")
}

fn is_on_device(plan: &MountPlan) -> bool {
    let source = match &plan.kind {
        MountKind::Filesystem { source, .. } => source.as_deref(),
        _ => None,
    };
    source.is_some_and(|source| source.starts_with('/'))
}

fn map_ids(mount: &OwnedFd, map: &IdMap) -> Result<(), mount::MountError> {
    let namespace = user_namespace::make(&map.uid, &map.gid)
        .map_err(mount::step("make a user namespace for uidMappings and gidMappings"))?;
    let depth = if map.recursive { Depth::Tree } else { Depth::One };
    mount::map_ids(mount, namespace.as_fd(), depth)
}

fn is_on_proc(place: &OwnedFd) -> Result<bool, StageError> {
    mount::is_on(place, PROC_SUPER_MAGIC).map_err(StageError::step("stat a mount point"))
}

fn refused(plan: &MountPlan, reason: &'static str) -> StageError {
    StageError::Refused { field: format!("mounts[{}]", plan.destination.display()), reason }
}
