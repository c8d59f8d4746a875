//! Finds the program behind `args[0]`, as the user it will run as, and says why it cannot be run in
//! the words that docker and others look for.

use std::path::{Path, PathBuf};

use husk_protocols::error::ErrorKind;
use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};

use crate::failure::errno_kind;

/// For a process without a PATH: what docker gives to one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a command cannot be executed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandError {
    /// No folder of PATH has it.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    /// The path leads to nothing.
    #[error("exec: {0:?}: stat {0}: no such file or directory")]
    Missing(String),
    /// The path leads to a folder.
    #[error("exec: {0:?}: is a directory")]
    Directory(String),
    /// The user may not execute it.
    #[error("exec: {0:?}: permission denied")]
    Denied(String),
    /// It was there, and the kernel refused it.
    #[error("exec {name}: {}", errno.desc().to_lowercase())]
    Exec {
        /// As the user gave it.
        name: String,
        /// Already in the message.
        errno: Errno,
    },
}

impl CommandError {
    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotInPath(_) | Self::Missing(_) => ErrorKind::CommandNotFound,
            Self::Directory(_) | Self::Denied(_) => ErrorKind::CommandNotExecutable,
            Self::Exec { errno, .. } => match errno {
                // The interpreter of a script, or the loader of a program.
                Errno::ENOENT | Errno::ENOTDIR => ErrorKind::CommandNotFound,
                Errno::EACCES
                | Errno::EPERM
                | Errno::ENOEXEC
                | Errno::ETXTBSY
                | Errno::ELIBBAD
                | Errno::EISDIR => ErrorKind::CommandNotExecutable,
                Errno::E2BIG => ErrorKind::Invalid,
                errno => errno_kind(*errno),
            },
        }
    }
}

/// The path to execute. Asks the file system as the calling user.
///
/// # Errors
/// [`CommandError`].
pub fn find(name: &str, path: Option<&str>) -> Result<PathBuf, CommandError> {
    if name.contains('/') {
        let file = PathBuf::from(name);
        return match probe(&file) {
            Probe::Executable => Ok(file),
            Probe::Missing => Err(CommandError::Missing(name.to_owned())),
            Probe::Directory => Err(CommandError::Directory(name.to_owned())),
            Probe::Denied => Err(CommandError::Denied(name.to_owned())),
        };
    }
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(Path::new)
        // An entry that is not absolute would find what lies in the working folder.
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| probe(file) == Probe::Executable)
        .ok_or_else(|| CommandError::NotInPath(name.to_owned()))
}

#[derive(Debug, PartialEq, Eq)]
enum Probe {
    Executable,
    Missing,
    Directory,
    Denied,
}

fn probe(file: &Path) -> Probe {
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => Probe::Directory,
        Ok(_) if access(file, AccessFlags::X_OK).is_ok() => Probe::Executable,
        Ok(_) => Probe::Denied,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Probe::Denied,
        Err(_) => Probe::Missing,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in [("run", 0o755), ("data", 0o644)] {
            let file = folder.path().join(name);
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(folder.path().join("folder")).unwrap();
        folder
    }

    #[test]
    fn command_is_found_in_path_in_order() {
        let folder = folder();
        let path = format!("/nonexistent:relative::{}", folder.path().display());
        assert_eq!(find("run", Some(&path)).unwrap(), folder.path().join("run"));
        for name in ["missing", "data", "folder"] {
            let error = find(name, Some(&path)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CommandNotFound);
            assert_eq!(
                error.to_string(),
                format!("exec: \"{name}\": executable file not found in $PATH")
            );
        }
    }

    #[test]
    fn path_that_cannot_be_run_says_why() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        for (name, words, kind) in [
            ("missing", "no such file or directory", ErrorKind::CommandNotFound),
            ("data", "permission denied", ErrorKind::CommandNotExecutable),
            ("folder", "is a directory", ErrorKind::CommandNotExecutable),
        ] {
            let error = find(&at(name), None).unwrap_err();
            assert!(error.to_string().ends_with(words), "{error}");
            assert_eq!(error.kind(), kind);
        }
    }

    #[test]
    fn refusal_of_the_kernel_has_the_words_that_others_look_for() {
        let error = |errno| CommandError::Exec { name: "/x".to_owned(), errno };
        assert_eq!(error(Errno::ENOENT).to_string(), "exec /x: no such file or directory");
        assert_eq!(error(Errno::ENOENT).kind(), ErrorKind::CommandNotFound);
        assert_eq!(error(Errno::EACCES).to_string(), "exec /x: permission denied");
        assert_eq!(error(Errno::ENOEXEC).kind(), ErrorKind::CommandNotExecutable);
    }
}
