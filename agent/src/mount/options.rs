//! The options of a mount, as the OCI runtime-spec lists them (config.md, "Linux mount options"),
//! as flags and data. Pure.

use serde::{Deserialize, Serialize};

use crate::sys::mount::Depth;

/// `MOUNT_ATTR_*`, linux/mount.h.
pub const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME_MASK: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// When access times are written: `MOUNT_ATTR__ATIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atime {
    /// When older than the last change, or a day.
    Relative,
    /// Never.
    Never,
    /// At every access.
    Strict,
}

impl Atime {
    fn flag(self) -> u64 {
        match self {
            Self::Relative => 0,
            Self::Never => NOATIME,
            Self::Strict => STRICTATIME,
        }
    }
}

/// How mounts travel between mount namespaces: mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Both ways.
    Shared,
    /// Inwards only.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and not to be bind-mounted.
    Unbindable,
}

impl Propagation {
    /// `MS_SHARED` and its like.
    #[must_use]
    pub fn flag(self) -> u64 {
        match self {
            Self::Shared => libc::MS_SHARED,
            Self::Slave => libc::MS_SLAVE,
            Self::Private => libc::MS_PRIVATE,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }

    /// Reads `shared`, `rslave` and so on.
    #[must_use]
    pub fn parse(text: &str) -> Option<(Self, Depth)> {
        let (name, depth) = match text {
            "runbindable" => ("unbindable", Depth::Tree),
            text => match text.strip_prefix('r') {
                Some(name) => (name, Depth::Tree),
                None => (text, Depth::One),
            },
        };
        let propagation = match name {
            "shared" => Self::Shared,
            "slave" => Self::Slave,
            "private" => Self::Private,
            "unbindable" => Self::Unbindable,
            _ => return None,
        };
        Some((propagation, depth))
    }
}

/// Why a list of options was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// A bind mount has no file system of its own to take it.
    #[error("option {0} on a bind mount")]
    DataOnBind(String),
    /// Only what belongs to a mount can be changed later, not what belongs to its file system.
    #[error("option {0} with remount")]
    DataOnRemount(String),
}

/// What a list of options says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// `MOUNT_ATTR_*` to set on the mount.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear: a bind mount starts with those of its source.
    pub clear: u64,
    /// The same for this mount and all below.
    pub set_all: u64,
    /// The same for this mount and all below.
    pub clear_all: u64,
    /// Applied once the mount is attached.
    #[serde(with = "propagation_and_depth")]
    pub propagation: Option<(Propagation, Depth)>,
    /// `bind` or `rbind` was among them.
    #[serde(with = "depth")]
    pub bind: Option<Depth>,
    /// For the file system itself: `size=64k`, or a bare flag. Those of the superblock are among
    /// them: the kernel takes them by the same call.
    pub data: Vec<(String, Option<String>)>,
    /// `idmap` or `ridmap` was among them.
    #[serde(with = "depth")]
    pub id_map: Option<Depth>,
    /// What is mounted there already is changed.
    pub remount: bool,
    /// A new tmpfs begins with what it lies over.
    pub copy_up: bool,
    /// Changes of files are counted.
    pub iversion: bool,
}

/// A change of one attribute: what to set, what to clear first.
struct Change {
    set: u64,
    clear: u64,
}

const fn on(flag: u64) -> Option<Change> {
    Some(Change { set: flag, clear: 0 })
}

const fn off(flag: u64) -> Option<Change> {
    Some(Change { set: 0, clear: flag })
}

fn atime(mode: Atime) -> Option<Change> {
    Some(Change { set: mode.flag(), clear: ATIME_MASK })
}

/// The attribute behind an option's name, without the `r` of its recursive form.
fn attribute(name: &str) -> Option<Change> {
    match name {
        "ro" => on(RDONLY),
        "rw" => off(RDONLY),
        "nosuid" => on(NOSUID),
        "suid" => off(NOSUID),
        "nodev" => on(NODEV),
        "dev" => off(NODEV),
        "noexec" => on(NOEXEC),
        "exec" => off(NOEXEC),
        "nodiratime" => on(NODIRATIME),
        "diratime" => off(NODIRATIME),
        "nosymfollow" => on(NOSYMFOLLOW),
        "symfollow" => off(NOSYMFOLLOW),
        "noatime" => atime(Atime::Never),
        "strictatime" => atime(Atime::Strict),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => atime(Atime::Relative),
        _ => None,
    }
}

/// Those with a recursive form, which is the name with an `r` before it.
fn recursive_attribute(option: &str) -> Option<Change> {
    // "relatime" and "ro" are no recursive forms of "elatime" and "o".
    attribute(option).map_or_else(|| option.strip_prefix('r').and_then(attribute), |_| None)
}

impl MountOptions {
    /// Reads a spec's list. Later options win, as with mount(8).
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionError> {
        let mut parsed = Self::default();
        for option in options {
            parsed.take(option);
        }
        match parsed.first_of_file_system() {
            Some(key) if parsed.remount => Err(OptionError::DataOnRemount(key)),
            Some(key) if parsed.bind.is_some() => Err(OptionError::DataOnBind(key)),
            _ => Ok(parsed),
        }
    }

    /// What only a new file system can take.
    fn first_of_file_system(&self) -> Option<String> {
        let named = [
            ("iversion", self.iversion),
            ("tmpcopyup", self.copy_up),
            ("idmap", self.remount && self.id_map.is_some()),
        ];
        let data = self.data.first().map(|(key, _)| key.clone());
        data.or_else(|| named.iter().find(|(_, given)| *given).map(|(name, _)| (*name).to_owned()))
    }

    fn take(&mut self, option: &str) {
        if let Some(change) = attribute(option) {
            self.set = (self.set & !change.clear) | change.set;
            self.clear = (self.clear & !change.set) | change.clear;
        } else if let Some(change) = recursive_attribute(option) {
            self.set_all = (self.set_all & !change.clear) | change.set;
            self.clear_all = (self.clear_all & !change.set) | change.clear;
        } else if let Some(propagation) = Propagation::parse(option) {
            self.propagation = Some(propagation);
        } else {
            self.take_other(option);
        }
    }

    fn take_other(&mut self, option: &str) {
        match option {
            // "silent" and "loud" are about the kernel's log alone.
            "defaults" | "" | "silent" | "loud" => {}
            "bind" => self.bind = Some(Depth::One),
            "rbind" => self.bind = Some(Depth::Tree),
            "idmap" => self.id_map = Some(Depth::One),
            "ridmap" => self.id_map = Some(Depth::Tree),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "iversion" => self.iversion = true,
            "noiversion" => self.iversion = false,
            "async" => self.forget("sync"),
            "nolazytime" => self.forget("lazytime"),
            "nomand" => self.forget("mand"),
            data => {
                let (key, value) = match data.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (data, None),
                };
                self.data.push((key.to_owned(), value));
            }
        }
    }

    /// Takes a flag of the superblock back.
    fn forget(&mut self, flag: &str) {
        self.data.retain(|(key, value)| key != flag || value.is_some());
    }

    /// The mount is to be read-only in the end.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.set & RDONLY != 0
    }

    /// The same without read-only: for a mount that still has to be filled.
    #[must_use]
    pub fn writable(&self) -> Self {
        Self { set: self.set & !RDONLY, ..self.clone() }
    }
}

/// [`Depth`] as a truth value: "all below too".
mod depth {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::sys::mount::Depth;

    pub fn serialize<S: Serializer>(depth: &Option<Depth>, out: S) -> Result<S::Ok, S::Error> {
        depth.map(|depth| depth == Depth::Tree).serialize(out)
    }

    pub fn of(tree: bool) -> Depth {
        if tree { Depth::Tree } else { Depth::One }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Depth>, D::Error> {
        Ok(Option::<bool>::deserialize(from)?.map(of))
    }
}

mod propagation_and_depth {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Propagation, depth};
    use crate::sys::mount::Depth;

    type Value = Option<(Propagation, Depth)>;

    pub fn serialize<S: Serializer>(value: &Value, out: S) -> Result<S::Ok, S::Error> {
        value.map(|(propagation, depth)| (propagation, depth == Depth::Tree)).serialize(out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        let value = Option::<(Propagation, bool)>::deserialize(from)?;
        Ok(value.map(|(propagation, tree)| (propagation, depth::of(tree))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        MountOptions::parse(options.iter().copied()).unwrap()
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options =
            parse(&["nosuid", "noexec", "nodev", "ro", "mode=1777", "size=64k", "newinstance"]);
        assert_eq!(options.set, NOSUID | NOEXEC | NODEV | RDONLY);
        let data = [("mode", Some("1777")), ("size", Some("64k")), ("newinstance", None)]
            .map(|(key, value)| (key.to_owned(), value.map(str::to_owned)));
        assert_eq!(options.data, data);
    }

    #[test]
    fn later_option_wins() {
        assert_eq!(parse(&["ro", "rw"]).set, 0);
        assert_eq!(parse(&["ro", "rw"]).clear, RDONLY);
        assert_eq!(parse(&["rw", "ro"]).clear, 0);
        assert_eq!(parse(&["noatime", "strictatime"]).set, STRICTATIME);
    }

    #[test]
    fn recursive_forms_reach_all_mounts_below() {
        let options = parse(&["rbind", "rro", "rnosuid", "relatime"]);
        assert_eq!(options.set_all, RDONLY | NOSUID);
        assert_eq!(options.set, 0);
        assert_eq!(options.bind, Some(Depth::Tree));
        assert_eq!(parse(&["rrw", "rdev"]).clear_all, RDONLY | NODEV);
    }

    #[test]
    fn propagation_has_a_recursive_form_each() {
        assert_eq!(Propagation::parse("rshared"), Some((Propagation::Shared, Depth::Tree)));
        assert_eq!(Propagation::parse("slave"), Some((Propagation::Slave, Depth::One)));
        assert_eq!(Propagation::parse("runbindable"), Some((Propagation::Unbindable, Depth::Tree)));
        assert_eq!(Propagation::parse("public"), None);
    }

    #[test]
    fn flags_of_the_superblock_go_to_the_file_system_and_can_be_taken_back() {
        let flags = |options: &[&str]| -> Vec<String> {
            parse(options).data.into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(flags(&["sync", "dirsync", "lazytime", "mand"]).len(), 4);
        assert_eq!(flags(&["sync", "lazytime", "mand", "async", "nolazytime", "nomand"]).len(), 0);
        assert_eq!(flags(&["async", "sync", "silent", "loud", "defaults"]), ["sync"]);
        assert!(!parse(&["iversion", "noiversion"]).iversion);
    }

    #[test]
    fn every_option_of_the_standard_is_known() {
        // config.md, "Linux mount options", but those that are for a file system to know.
        let recursive = "rrw rro rsuid rnosuid rdev rnodev rexec rnoexec rdiratime rnodiratime \
                         rrelatime rnorelatime rnoatime rstrictatime rnostrictatime rsymfollow \
                         rnosymfollow";
        for option in recursive.split_whitespace() {
            let options = parse(&[option]);
            assert_ne!(options.set_all | options.clear_all, 0, "{option}");
            assert!(options.data.is_empty(), "{option}");
        }
        let others = "async bind defaults dev diratime exec idmap iversion loud noatime nodev \
                      nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid \
                      nosymfollow private rbind relatime remount ridmap ro rprivate rshared rslave \
                      runbindable rw shared silent slave strictatime suid symfollow tmpcopyup \
                      unbindable";
        for option in others.split_whitespace() {
            assert!(parse(&[option]).data.is_empty(), "{option}");
        }
    }

    #[test]
    fn what_needs_a_new_file_system_is_refused_on_others() {
        for option in ["size=1", "sync", "iversion", "tmpcopyup"] {
            let key = option.split('=').next().unwrap().to_owned();
            let on = |how| MountOptions::parse([how, option]);
            assert_eq!(on("bind"), Err(OptionError::DataOnBind(key.clone())));
            assert_eq!(on("remount"), Err(OptionError::DataOnRemount(key)));
        }
        assert!(MountOptions::parse(["rbind", "ridmap"]).is_ok());
        assert!(MountOptions::parse(["remount", "bind", "ro"]).is_ok());
    }

    proptest! {
        #[test]
        fn set_and_cleared_attributes_never_overlap(
            options in proptest::collection::vec("r?(no)?(ro|rw|suid|dev|exec|atime|strictatime)", 0..12)
        ) {
            if let Ok(parsed) = MountOptions::parse(options.iter().map(String::as_str)) {
                prop_assert_eq!(parsed.set & parsed.clear & !ATIME_MASK, 0);
                prop_assert_eq!(parsed.set_all & parsed.clear_all & !ATIME_MASK, 0);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(options in proptest::collection::vec(".{0,20}", 0..8)) {
            let _ = MountOptions::parse(options.iter().map(String::as_str));
        }
    }
}
