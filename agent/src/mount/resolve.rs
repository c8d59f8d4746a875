//! Paths inside a root whose files somebody else made. Every step is openat2(2) with
//! `RESOLVE_IN_ROOT`: a symbolic link leads nowhere but inside.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::{
        stat::{Mode, mkdirat},
        statfs::{FsType, fstatfs},
    },
};

use crate::sys::Result;

/// A file that is made as a mount point is empty and nobody's business.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

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

    /// Finds a folder, making what is missing of its path.
    ///
    /// # Errors
    /// `ENOTDIR` when a file is in the way, `ENOENT` for a dangling symbolic link.
    pub fn make_directory(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        let mut reached = PathBuf::from("/");
        let mut folder = self.open(&reached, flags)?;
        for component in path.components() {
            match component {
                Component::Normal(name) => {
                    reached.push(name);
                    folder = self.enter(&folder, &reached, name)?;
                }
                Component::ParentDir => return Err(Errno::EINVAL),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(folder)
    }

    fn enter(&self, folder: &OwnedFd, path: &Path, name: &OsStr) -> Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        match mkdirat(folder, name, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EEXIST) => self.open(path, flags),
            Err(errno) => Err(errno),
        }
    }

    /// Finds a file of any kind, making an empty one (and its folders) where there is none.
    ///
    /// # Errors
    /// As openat2(2) and mkdirat(2).
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        let (parent, name) = self.parent(path)?;
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(&parent, name, create, FILE_MODE) {
            Ok(_) | Err(Errno::EEXIST) => self.find(path),
            Err(errno) => Err(errno),
        }
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
        for link in ["/absolute/new", "/relative/new"] {
            // The links dangle inside the root: refused, and nothing is made outside.
            assert_eq!(tree.root().make_directory(Path::new(link)).unwrap_err(), Errno::ENOENT);
            assert_eq!(tree.root().make_file(Path::new(link)).unwrap_err(), Errno::ENOENT);
        }
        tree.root().make_directory(Path::new("/dev/new")).unwrap();
        assert!(tree.path("root/new").is_dir());
        assert!(tree.outside_is_empty());
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
