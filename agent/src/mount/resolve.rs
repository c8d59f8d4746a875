//! Paths inside a root whose files somebody else made. Every step is openat2(2) with
//! `RESOLVE_IN_ROOT`: a symbolic link leads nowhere but inside.

use std::{
    ffi::{OsStr, OsString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat},
    sys::{
        stat::{Mode, SFlag, fstat, mkdirat},
        statfs::{FsType, fstatfs},
    },
};

use crate::sys::Result;

/// A file that is made as a mount point is empty and nobody's business.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);
/// As the kernel has it: path_resolution(7).
const MAX_LINKS: u32 = 40;

/// What a path is to lead to when its last component is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Folder,
    File,
}

/// Where a walk is, and what is still ahead.
#[derive(Debug)]
struct Steps {
    /// A folder, by a path without links.
    reached: PathBuf,
    /// The next one is the last of the list.
    pending: Vec<OsString>,
    links: u32,
}

impl Default for Steps {
    fn default() -> Self {
        Self { reached: "/".into(), pending: Vec::new(), links: 0 }
    }
}

impl Steps {
    fn push(&mut self, path: &Path) {
        let names = path.components().rev().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        self.pending.extend(names);
    }

    fn follow(&mut self, target: &Path) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if target.is_absolute() {
            self.reached = "/".into();
        }
        self.push(target);
        Ok(())
    }
}

/// A folder that is `/` for every path resolved by it.
#[derive(Debug)]
pub struct Root<'a>(BorrowedFd<'a>);

impl<'a> Root<'a> {
    /// Takes an open folder, `O_PATH` being enough.
    #[must_use]
    pub fn new(folder: BorrowedFd<'a>) -> Self {
        Self(folder)
    }

    /// Opens a path with these flags; symbolic links are followed inside the root.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlag::empty())
    }

    /// The same, and refuses symbolic links with `ELOOP`.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open_plain(&self, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    /// A descriptor that names the file without opening it.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn find(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path, OFlag::O_PATH)
    }

    fn resolve(&self, path: &Path, flags: OFlag, more: ResolveFlag) -> Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | more);
        // A rename in the tree at the same time can make one walk fail; a few more will do.
        for _ in 0..16 {
            match openat2(self.0, path, how) {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Finds a folder, making what is missing of its path. A symbolic link that leads nowhere is
    /// followed too: what is missing is made where it points, inside the root.
    ///
    /// # Errors
    /// `ENOTDIR` when a file is in the way, `ELOOP` for links without an end.
    pub fn make_directory(&self, path: &Path) -> Result<OwnedFd> {
        match self.open(path, FOLDER) {
            Err(Errno::ENOENT) => self.make(path, Last::Folder),
            result => result,
        }
    }

    /// Finds a file of any kind, making an empty one (and its folders) where there is none.
    ///
    /// # Errors
    /// As [`Root::make_directory`].
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::ENOENT) => self.make(path, Last::File),
            result => result,
        }
    }

    /// Walks by hand, so that what is missing can be made on the way. Each step is resolved from
    /// the root, on a path that has no links in it.
    fn make(&self, path: &Path, last: Last) -> Result<OwnedFd> {
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(Errno::EINVAL);
        }
        let mut steps = Steps::default();
        steps.push(path);
        let mut folder = self.open_plain(&steps.reached, FOLDER)?;
        while let Some(name) = steps.pending.pop() {
            if name == ".." {
                steps.reached.pop();
                folder = self.open_plain(&steps.reached, FOLDER)?;
                continue;
            }
            let here = steps.reached.join(&name);
            let ends_in_file = last == Last::File && steps.pending.is_empty();
            let file = match self.open_plain(&here, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
                Err(Errno::ENOENT) if ends_in_file => self.make_one_file(&folder, &name, &here)?,
                Err(Errno::ENOENT) => {
                    mkdirat(&folder, name.as_os_str(), DIRECTORY_MODE)?;
                    self.open_plain(&here, FOLDER)?
                }
                result => result?,
            };
            match SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFDIR => (steps.reached, folder) = (here, file),
                SFlag::S_IFLNK => {
                    steps.follow(Path::new(&readlinkat(&file, c"")?))?;
                    folder = self.open_plain(&steps.reached, FOLDER)?;
                }
                _ if ends_in_file => return Ok(file),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Ok(folder)
    }

    fn make_one_file(&self, folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd> {
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        drop(openat(folder, name, create, FILE_MODE)?);
        self.open_plain(path, OFlag::O_PATH)
    }

    /// The folder that holds a path's last component, made when missing, and that component.
    ///
    /// # Errors
    /// `EINVAL` for a path without one, else as [`Root::make_directory`].
    pub fn parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent = path.parent().ok_or(Errno::EINVAL)?;
        Ok((self.make_directory(parent)?, name))
    }
}

/// Whether a file lies on a file system of this kind.
///
/// # Errors
/// As fstatfs(2).
pub fn is_on(file: impl AsFd, fstype: FsType) -> Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == fstype)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    struct Tree {
        folder: tempfile::TempDir,
        root: OwnedFd,
    }

    impl Tree {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("root")).unwrap();
            fs::create_dir(folder.path().join("outside")).unwrap();
            let root = nix::fcntl::open(
                &folder.path().join("root"),
                OFlag::O_PATH | OFlag::O_DIRECTORY,
                Mode::empty(),
            )
            .unwrap();
            Self { folder, root }
        }

        fn root(&self) -> Root<'_> {
            Root::new(self.root.as_fd())
        }

        fn path(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn outside_is_empty(&self) -> bool {
            fs::read_dir(self.path("outside")).unwrap().next().is_none()
        }
    }

    #[test]
    fn missing_folders_are_made() {
        let tree = Tree::new();
        tree.root().make_directory(Path::new("/a/b/c")).unwrap();
        assert!(tree.path("root/a/b/c").is_dir());
        tree.root().make_file(Path::new("/x/y/file")).unwrap();
        assert!(tree.path("root/x/y/file").is_file());
    }

    #[test]
    fn link_out_of_the_root_stays_inside() {
        let tree = Tree::new();
        symlink(tree.path("outside"), tree.path("root/absolute")).unwrap();
        symlink("../../../../outside", tree.path("root/relative")).unwrap();
        symlink("/", tree.path("root/dev")).unwrap();
        tree.root().make_directory(Path::new("/absolute/new")).unwrap();
        tree.root().make_file(Path::new("/relative/file")).unwrap();
        // The links dangle inside the root: what they lack is made there.
        assert!(
            tree.path("root").join(tree.path("outside/new").strip_prefix("/").unwrap()).is_dir()
        );
        assert!(tree.path("root/outside/file").is_file());
        tree.root().make_directory(Path::new("/dev/new")).unwrap();
        assert!(tree.path("root/new").is_dir());
        assert!(tree.outside_is_empty());
    }

    #[test]
    fn dangling_link_to_a_file_is_made_where_it_points() {
        let tree = Tree::new();
        fs::create_dir(tree.path("root/etc")).unwrap();
        symlink("../run/resolve/stub.conf", tree.path("root/etc/resolv.conf")).unwrap();
        tree.root().make_file(Path::new("/etc/resolv.conf")).unwrap();
        assert!(tree.path("root/run/resolve/stub.conf").is_file());
        let again = tree.root().make_directory(Path::new("/etc/resolv.conf/x")).unwrap_err();
        assert_eq!(again, Errno::ENOTDIR);
    }

    #[test]
    fn links_without_an_end_are_refused() {
        let tree = Tree::new();
        symlink("b", tree.path("root/a")).unwrap();
        symlink("a", tree.path("root/b")).unwrap();
        symlink("/grows/x", tree.path("root/grows")).unwrap();
        for path in ["/a", "/b/c", "/grows"] {
            assert_eq!(tree.root().make_directory(Path::new(path)).unwrap_err(), Errno::ELOOP);
            assert_eq!(tree.root().make_file(Path::new(path)).unwrap_err(), Errno::ELOOP);
        }
    }

    #[test]
    fn parent_components_are_not_made() {
        let tree = Tree::new();
        let path = Path::new("/missing/../../outside/new");
        assert_eq!(tree.root().make_directory(path).unwrap_err(), Errno::EINVAL);
        assert!(tree.outside_is_empty());
    }

    #[test]
    fn plain_open_refuses_a_link() {
        let tree = Tree::new();
        fs::create_dir(tree.path("root/real")).unwrap();
        symlink("real", tree.path("root/link")).unwrap();
        assert!(tree.root().open_plain(Path::new("/real"), OFlag::O_PATH).is_ok());
        let error = tree.root().open_plain(Path::new("/link"), OFlag::O_PATH).unwrap_err();
        assert_eq!(error, Errno::ELOOP);
    }
}
