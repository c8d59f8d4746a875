//! Settings of the guest's kernel: proc(5), /proc/sys.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use super::{GuestError, Result, short};

const FOLDER: &str = "/proc/sys";
/// A page, of which the kernel reads one at most.
const MAX_VALUE_LEN: usize = 4095;

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// For people.
    name: String,
    /// Below /proc/sys.
    path: PathBuf,
    value: String,
}

impl Sysctl {
    /// Takes a name with dots, or with slashes where a part has a dot.
    ///
    /// # Errors
    /// [`GuestError::Invalid`] for what is no name, and for a value of more than a line.
    pub fn new(name: &str, value: &str) -> Result<Self> {
        let parts: Vec<&str> = name.split(if name.contains('/') { '/' } else { '.' }).collect();
        let plain = |part: &&str| !matches!(*part, "" | "." | "..") && !part.contains('\0');
        if parts.len() < 2 || !parts.iter().all(plain) {
            return Err(GuestError::invalid("sysctl", format!("{:?} is no name", short(name))));
        }
        if value.len() > MAX_VALUE_LEN || value.contains(['\n', '\0']) {
            let what = format!("sysctl {}", short(name));
            return Err(GuestError::invalid(what, "the value is not one line"));
        }
        Ok(Self { name: short(name), path: parts.iter().collect(), value: value.to_owned() })
    }

    /// Sets it. Blocks.
    ///
    /// # Errors
    /// [`GuestError`] with the name, and why.
    pub fn apply(&self) -> Result<()> {
        self.write().map_err(|error| {
            let what = format!("sysctl {}", self.name);
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENOTDIR) => {
                    GuestError::invalid(what, "the guest kernel has none of this name")
                }
                Some(Errno::EISDIR) => GuestError::invalid(what, "is a folder of settings"),
                Some(Errno::EACCES | Errno::EPERM) => GuestError::invalid(what, "cannot be set"),
                Some(Errno::EINVAL | Errno::ERANGE) => {
                    let reason = format!("the kernel refuses {:?}", short(&self.value));
                    GuestError::invalid(what, reason)
                }
                _ => GuestError::call("set sysctl", self.name.clone())(error),
            }
        })
    }

    /// In one call: each write(2) is a value of its own.
    fn write(&self) -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).open(Path::new(FOLDER).join(&self.path))?;
        file.write_all(self.value.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_becomes_a_file() {
        let path = |name| Sysctl::new(name, "1").unwrap().path;
        assert_eq!(path("vm.swappiness"), PathBuf::from("vm/swappiness"));
        assert_eq!(path("net/ipv4/conf/eth0.1/rp_filter").iter().count(), 5);
    }

    #[test]
    fn name_that_leaves_its_folder_is_refused() {
        for name in ["", "vm", "vm..x", "../1/mem", "vm/../../1", "/vm/x", "vm.x\0"] {
            assert!(Sysctl::new(name, "1").is_err(), "{name:?}");
        }
        assert!(Sysctl::new("vm.x", "1\n2").is_err());
    }
}
