//! The configuration file: what somebody wants of every command. A flag goes before a `HUSK_*`
//! variable, that before the file, and the file before the default; this room reads the file, and
//! the deadline's variable.
//!
//! ```toml
//! hypervisor = "auto"            # auto, kvm or qemu
//! data_dir = "/srv/husk"         # images and containers
//! runtime_dir = "/run/husk"      # sockets
//! guest_dir = "/opt/husk/guest"  # kernel and initramfs
//! guest_timeout_secs = 60        # for a guest to answer
//! ```

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde::{Deserialize, Deserializer};

use super::error::Error;
use crate::hypervisor::Choice;

/// Names one file and no other.
const FILE_VARIABLE: &str = "HUSK_CONFIG";
/// For every user of the machine.
const SYSTEM_FILE: &str = "/etc/husk/config.toml";
/// More is no configuration.
const MAX_BYTES: u64 = 1 << 20;
/// Another deadline for guests, in seconds.
const GUEST_DEADLINE_VARIABLE: &str = "HUSK_GUEST_TIMEOUT";
/// How long a guest may take from the VM's start to the agent's hello, and for an answer later.
/// Emulated guests on a busy machine are slow; a guest that is stuck stays stuck.
const GUEST_DEADLINE: Duration = Duration::from_secs(60);
/// Seconds that a deadline may have.
const DEADLINES: std::ops::RangeInclusive<u64> = 1..=3600;

/// What the file says; `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What runs virtual machines.
    #[serde(default, deserialize_with = "choice")]
    pub hypervisor: Option<Choice>,
    /// Images and containers.
    #[serde(default, deserialize_with = "folder")]
    pub data_dir: Option<PathBuf>,
    /// Sockets.
    #[serde(default, deserialize_with = "folder")]
    pub runtime_dir: Option<PathBuf>,
    /// Kernel and initramfs.
    #[serde(default, deserialize_with = "folder")]
    pub guest_dir: Option<PathBuf>,
    /// Seconds for a guest to answer, 1 to 3600.
    #[serde(default, deserialize_with = "seconds")]
    pub guest_timeout_secs: Option<u64>,
}

fn choice<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Choice>, D::Error> {
    let word = String::deserialize(deserializer)?;
    word.parse().map(Some).map_err(serde::de::Error::custom)
}

fn folder<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.is_absolute() {
        return Ok(Some(path));
    }
    Err(serde::de::Error::custom(format!("{:?} is not an absolute path", path.display())))
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let seconds = u64::deserialize(deserializer)?;
    if DEADLINES.contains(&seconds) {
        return Ok(Some(seconds));
    }
    Err(serde::de::Error::custom(format!("{seconds} is not a number of seconds, 1 to 3600")))
}

impl Settings {
    /// Reads the file that `HUSK_CONFIG` names, or else /etc/husk/config.toml and, over it, the
    /// user's own in `$XDG_CONFIG_HOME/husk` or `~/.config/husk`. A file that is not there says
    /// nothing, but for the one that `HUSK_CONFIG` names.
    ///
    /// # Errors
    /// [`Error::Settings`], [`Error::File`] and [`Error::RelativeDir`]: nothing is taken from a
    /// file that is wrong anywhere.
    pub fn load() -> Result<Self, Error> {
        if let Some(file) = env::var_os(FILE_VARIABLE).filter(|file| !file.is_empty()) {
            let file = PathBuf::from(file);
            if !file.is_absolute() {
                // A monitor reads it too, from another folder.
                return Err(Error::RelativeDir { variable: FILE_VARIABLE, dir: file });
            }
            return Self::read(&file)?.ok_or_else(|| {
                Error::file("read configuration", file)(ErrorKind::NotFound.into())
            });
        }
        let system = Self::read(Path::new(SYSTEM_FILE))?.unwrap_or_default();
        let user = user_file().map(|file| Self::read(&file)).transpose()?.flatten();
        Ok(user.unwrap_or_default().over(system))
    }

    fn read(file: &Path) -> Result<Option<Self>, Error> {
        match read_text(file) {
            Ok(text) => Self::parse(file, &text).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read configuration", file)(error)),
        }
    }

    fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            Error::Settings {
                file: file.to_owned(),
                line: before.matches('\n').count() + 1,
                message: error.message().to_owned(),
            }
        })
    }

    /// How long a guest may take to answer: as `HUSK_GUEST_TIMEOUT` says, or the file.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn guest_deadline(&self) -> Result<Duration, Error> {
        let Some(text) = env::var_os(GUEST_DEADLINE_VARIABLE) else {
            return Ok(self.guest_timeout_secs.map_or(GUEST_DEADLINE, Duration::from_secs));
        };
        let seconds = text.to_str().and_then(|text| text.parse().ok());
        let seconds = seconds.filter(|seconds| DEADLINES.contains(seconds));
        seconds.map(Duration::from_secs).ok_or_else(|| {
            let text = text.display();
            Error::Invalid(format!(
                "{GUEST_DEADLINE_VARIABLE}={text}: not a number of seconds, 1 to 3600"
            ))
        })
    }

    /// Key by key, the other's where this says nothing.
    fn over(self, other: Self) -> Self {
        Self {
            hypervisor: self.hypervisor.or(other.hypervisor),
            data_dir: self.data_dir.or(other.data_dir),
            runtime_dir: self.runtime_dir.or(other.runtime_dir),
            guest_dir: self.guest_dir.or(other.guest_dir),
            guest_timeout_secs: self.guest_timeout_secs.or(other.guest_timeout_secs),
        }
    }
}

/// The text of a file, or of a device such as /dev/null. Whoever would write to a pipe is not
/// waited for.
fn read_text(file: &Path) -> io::Result<String> {
    let mut options = File::options();
    let source = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(file)?;
    let kind = source.metadata()?.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        return Err(io::Error::other("no regular file"));
    }
    let mut text = String::new();
    source.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

fn user_file() -> Option<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = folder("XDG_CONFIG_HOME").or(folder("HOME").map(|home| home.join(".config")))?;
    Some(config.join("husk/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("/c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_is_read() {
        let text = "hypervisor = \"qemu\"\ndata_dir = \"/d\"\nruntime_dir = \"/r\"\n\
                    guest_dir = \"/g\"\nguest_timeout_secs = 5\n";
        let settings = parse(text).unwrap();
        assert_eq!(settings.hypervisor, Some(Choice::Qemu));
        assert_eq!(settings.data_dir, Some("/d".into()));
        assert_eq!(settings.runtime_dir, Some("/r".into()));
        assert_eq!(settings.guest_dir, Some("/g".into()));
        assert_eq!(settings.guest_timeout_secs, Some(5));
        assert_eq!(parse("").unwrap(), Settings::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, words) in [
            ("# a\nhypervsor = \"kvm\"\n", 2, "unknown field `hypervsor`"),
            ("hypervisor = \"xen\"\n", 1, "unknown hypervisor \"xen\""),
            ("\n\ndata_dir = \"d\"\n", 3, "not an absolute path"),
            ("guest_timeout_secs = 0\n", 1, "not a number of seconds"),
            ("guest_timeout_secs = \"5\"\n", 1, "invalid type: string"),
            ("hypervisor = \"kvm\"\nhypervisor = \"kvm\"\n", 2, "duplicate key"),
            ("data_dir\n", 1, ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("/c.toml, line {line}: ")), "{error}");
            assert!(error.contains(words), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn what_is_no_file_or_has_no_end_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (file, words) in [
            (pipe.as_path(), "no regular file"),
            (folder.path(), "no regular file"),
            (Path::new("/dev/zero"), "file too large"),
        ] {
            let error = crate::engine::error::chain(&Settings::read(file).unwrap_err());
            assert!(error.starts_with("read configuration /"), "{error}");
            assert!(error.ends_with(words), "{error}");
        }
        assert_eq!(Settings::read(Path::new("/dev/null")).unwrap(), Some(Settings::default()));
        assert_eq!(Settings::read(&folder.path().join("none")).unwrap(), None);
    }

    #[test]
    fn users_keys_go_before_the_machines() {
        let system = parse("hypervisor = \"qemu\"\nguest_timeout_secs = 5\n").unwrap();
        let user = parse("hypervisor = \"kvm\"\n").unwrap();
        let both = user.over(system);
        assert_eq!(both.hypervisor, Some(Choice::Kvm));
        assert_eq!(both.guest_timeout_secs, Some(5));
    }
}
