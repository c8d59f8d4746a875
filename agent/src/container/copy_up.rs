//! `tmpcopyup`: a new tmpfs begins with the content of the folder that it will lie over. Owners,
//! modes and times are kept; links are copied as links, and never followed.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::{
        stat::{
            FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, mkdirat, mknodat, utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchown, fchownat, symlinkat},
};

use crate::sys::Result;

/// Deepest folder that is copied. Each takes descriptors while it is.
const MAX_DEPTH: usize = 128;

/// Copies what is in the folder `from`, of which `O_PATH` is enough, into the root of the mount
/// `to`.
///
/// # Errors
/// `ENOSPC` when the tmpfs is too small, `ELOOP` for a tree that is too deep.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let (from, to) = (enter(from.as_fd(), c".")?, enter(to.as_fd(), c".")?);
    let folder = nix::sys::stat::fstat(&from)?;
    fchown(&to, Some(Uid::from_raw(folder.st_uid)), Some(Gid::from_raw(folder.st_gid)))?;
    copy_content(from, &to, MAX_DEPTH)
}

fn enter(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

fn copy_content(from: OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    let source = from.try_clone().map_err(errno)?;
    for entry in Dir::from_fd(from)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_one(&source, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_one(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
    let file = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_bits_truncate(file.st_mode);
    let kind = SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFDIR => {
            let depth = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
            mkdirat(to, name, Mode::S_IRWXU)?;
            let copied = enter(to.as_fd(), name)?;
            copy_content(enter(from.as_fd(), name)?, &copied, depth)?;
            own(to, name, &file)?;
            fchmod(&copied, mode)?;
        }
        SFlag::S_IFREG => {
            let copied = copy_file(from, to, name)?;
            own(to, name, &file)?;
            // After the owner: a change of that takes the set-id bits.
            fchmod(&copied, mode)?;
        }
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
            own(to, name, &file)?;
        }
        special => {
            mknodat(to, name, special, mode, file.st_rdev)?;
            own(to, name, &file)?;
        }
    }
    let seconds = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
    let accessed = seconds(file.st_atime, file.st_atime_nsec);
    let modified = seconds(file.st_mtime, file.st_mtime_nsec);
    utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut source = File::from(openat(from, name, flags | OFlag::O_RDONLY, Mode::empty())?);
    let create = flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let mut copy = File::from(openat(to, name, create, Mode::S_IRUSR)?);
    io::copy(&mut source, &mut copy).map_err(errno)?;
    Ok(copy)
}

fn own(folder: &OwnedFd, name: &CStr, file: &FileStat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(file.st_uid), Gid::from_raw(file.st_gid));
    fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
        path::Path,
    };

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn tree_is_copied_with_modes_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/file"), "content").unwrap();
        fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        copy(&open(&from), &open(&to)).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), "content");
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("a/b/file"), mode("a")), (0o4751, 0o1777));
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
        let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(modified(&from.join("a/b/file")), modified(&to.join("a/b/file")));
    }

    #[test]
    fn tree_that_is_too_deep_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 2).collect();
        fs::create_dir_all(folder.path().join("from").join(deep)).unwrap();
        fs::create_dir(folder.path().join("to")).unwrap();
        let (from, to) = (open(&folder.path().join("from")), open(&folder.path().join("to")));
        assert_eq!(copy(&from, &to), Err(Errno::ELOOP));
    }
}
