//! The namespaces that a container is born in: those that it joins are found and opened before
//! anything is made for it.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::{
        stat::Mode,
        statfs::{NSFS_MAGIC, fstatfs},
    },
};

use super::{Result, SupervisorError, assets::blocking, desk::Desk, target::Target};
use crate::{
    container::plan::{IdMaps, InitPlan, Join, Kind, Place},
    spec::SpecError,
    storage::LayerIds,
    sys::{self, mount, spawn::UserNamespace, user_namespace},
};

/// Those that a thread can visit for a while.
const VISITED: [Kind; 5] = [Kind::Pid, Kind::Uts, Kind::Ipc, Kind::Network, Kind::Cgroup];

/// The agent's own, to come back to.
#[derive(Debug)]
pub struct OwnNamespaces(Vec<(Kind, OwnedFd)>);

impl OwnNamespaces {
    /// Opens them.
    ///
    /// # Errors
    /// As open(2).
    pub fn open() -> Result<Self> {
        let one =
            |kind: Kind| Ok((kind, File::open(format!("/proc/self/ns/{}", kind.file()))?.into()));
        VISITED
            .into_iter()
            .map(one)
            .collect::<std::io::Result<_>>()
            .map(Self)
            .map_err(SupervisorError::step("open the agent's own namespaces"))
    }

    /// One of those that can be visited.
    #[must_use]
    pub fn of(&self, wanted: Kind) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(kind, _)| *kind == wanted).map(|(_, own)| own.as_fd())
    }
}

/// The agent's own program, for second stages. An image can have it executed once more, as the
/// interpreter `/proc/self/exe`, and root inside then reaches the file through /proc: not to write
/// to it, for it is being executed, but to take its mode away, after which nothing could be
/// started. So stages have it from a read-only mount.
///
/// # Errors
/// [`SupervisorError::Step`].
pub fn own_program() -> Result<OwnedFd> {
    const READ_ONLY: mount::Attributes =
        mount::Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };
    open("/proc/self/exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|file| mount::clone_tree(file.as_fd(), mount::Depth::One))
        .and_then(|program| {
            mount::set_attributes(program.as_fd(), READ_ONLY, mount::Depth::One)?;
            Ok(program)
        })
        .map_err(SupervisorError::step("open the agent's own program"))
}

/// What a container's first process is born in.
#[derive(Debug)]
pub struct Isolation {
    joined: Vec<(Kind, OwnedFd)>,
    /// Those that the process enters itself.
    entered: Vec<Kind>,
    new_pid: bool,
    new_user: bool,
    /// Of its user namespace, when that is not the guest's.
    ids: Option<IdMaps>,
}

impl Isolation {
    /// Opens what the container joins.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] with the field, when there is no such namespace or it is of another
    /// kind.
    pub async fn open(plan: &mut InitPlan, desk: &Desk) -> Result<Self> {
        let mut joined = Vec::new();
        for Join { kind, place } in std::mem::take(&mut plan.joins) {
            joined.push((kind, find(kind, place, desk).await?));
        }
        let new_ids = plan.ids.take();
        let new_user = new_ids.is_some();
        let ids = match joined.iter().find(|(kind, _)| *kind == Kind::User) {
            Some((_, user)) => Some(ids_of(user.try_clone().map_err(duplicate())?).await?),
            None => new_ids,
        };
        Ok(Self { entered: plan.entered(), new_pid: plan.is_new(Kind::Pid), joined, new_user, ids })
    }

    /// Owners of files in its root.
    #[must_use]
    pub fn layer_ids(&self) -> Option<LayerIds> {
        self.ids.as_ref().map(|ids| LayerIds { uid: ids.uid.clone(), gid: ids.gid.clone() })
    }

    /// Whether it is process 1 of a pid namespace of its own.
    #[must_use]
    pub fn has_new_pid(&self) -> bool {
        self.new_pid
    }

    /// Those that the agent visits while the process is born.
    pub fn visited(&self) -> impl Iterator<Item = (Kind, BorrowedFd<'_>)> {
        let visited = self.joined.iter().filter(|(kind, _)| VISITED.contains(kind));
        visited.map(|(kind, namespace)| (*kind, namespace.as_fd()))
    }

    /// Those that the process enters itself, in order.
    pub fn entered(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.entered.iter().filter_map(|kind| self.joined(*kind))
    }

    fn joined(&self, wanted: Kind) -> Option<BorrowedFd<'_>> {
        let joined = self.joined.iter().find(|(kind, _)| *kind == wanted);
        joined.map(|(_, namespace)| namespace.as_fd())
    }

    /// The one that it is root of from its birth.
    #[must_use]
    pub fn user(&self) -> UserNamespace<'_> {
        match (&self.ids, self.joined(Kind::User)) {
            (_, Some(user)) if self.new_pid => UserNamespace::Of(user),
            (Some(ids), None) if self.new_user => {
                UserNamespace::New { uid: &ids.uid, gid: &ids.gid }
            }
            _ => UserNamespace::Callers,
        }
    }

    /// What a failed birth says of the namespaces.
    #[must_use]
    pub fn explain(&self, errno: Errno) -> Option<SpecError> {
        let joins = |kind| self.joined(kind).is_some();
        let field = |kind: Kind| format!("{}.path", kind.field());
        match errno {
            // pid_namespaces(7), "The namespace init process".
            Errno::ENOMEM | Errno::ESRCH if joins(Kind::Pid) => {
                Some(SpecError::invalid(field(Kind::Pid), "its first process has ended"))
            }
            _ => None,
        }
    }
}

fn duplicate() -> impl FnOnce(std::io::Error) -> SupervisorError {
    SupervisorError::step("duplicate a namespace")
}

async fn ids_of(user: OwnedFd) -> Result<IdMaps> {
    let refused = |reason| SpecError::invalid(format!("{}.path", Kind::User.field()), reason);
    // user_namespaces(7): nobody enters the one that he is in.
    let (uid, gid) = blocking(move || user_namespace::maps_of(user.as_fd()))
        .await?
        .map_err(|_| refused("cannot be entered: to have the guest's own, leave it out"))?;
    let ids = IdMaps { uid, gid };
    if ids.has_user(0) && ids.has_group(0) {
        Ok(ids)
    } else {
        Err(refused("maps no container id 0: the container is set up as its root").into())
    }
}

async fn find(kind: Kind, place: Place, desk: &Desk) -> Result<OwnedFd> {
    let refused = |reason: String| {
        SupervisorError::from(SpecError::invalid(format!("{}.path", kind.field()), reason))
    };
    match place {
        Place::Path(path) => blocking(move || open_path(kind, &path)).await?.map_err(refused),
        Place::Container(id) => {
            let target = desk.reach(id).await.map_err(|error| refused(error.to_string()))?;
            blocking(move || of_first_process(kind, &target)).await?.map_err(refused)
        }
    }
}

fn of_first_process(kind: Kind, target: &Target) -> std::result::Result<OwnedFd, String> {
    let path = format!("/proc/{}/ns/{}", target.pid, kind.file());
    let namespace = open_path(kind, Path::new(&path));
    // That process's, and not of another with its pid.
    target.alive().map_err(|error| error.to_string())?;
    namespace
}

/// Opens a namespace by a path that could be anything's.
fn open_path(kind: Kind, path: &Path) -> std::result::Result<OwnedFd, String> {
    let said = |errno: Errno| format!("open {}: {}", path.display(), errno.desc().to_lowercase());
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(said)?;
    // A FIFO or a device is not opened to find out.
    if fstatfs(&file).map_err(said)?.filesystem_type() != NSFS_MAGIC {
        return Err(format!("{} is no namespace", path.display()));
    }
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file =
        open(again.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(said)?;
    match sys::namespace::kind(file.as_fd()) {
        Ok(found) if found == kind.flag() => Ok(file),
        _ => Err(format!("{} is no {} namespace", path.display(), kind.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_namespace_of_the_kind_is_opened() {
        assert!(open_path(Kind::Network, Path::new("/proc/self/ns/net")).is_ok());
        let wrong = open_path(Kind::Network, Path::new("/proc/self/ns/uts")).unwrap_err();
        assert_eq!(wrong, "/proc/self/ns/uts is no network namespace");
    }

    #[test]
    fn file_that_would_block_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
        let refused = open_path(Kind::Uts, &pipe).unwrap_err();
        assert_eq!(refused, format!("{} is no namespace", pipe.display()));
    }
}
