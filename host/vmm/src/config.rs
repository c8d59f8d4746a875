//! What a VMM is told to be: one JSON document, with files by the numbers of inherited descriptors.
//! Says what is wrong with it; opens nothing.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::boot::MAX_VCPUS;
use crate::layout::MAX_VIRTIO_DEVICES;
use crate::memory::{self, MemoryError, Size};
use crate::virtio::net::Mac;
use crate::virtio::{balloon, blk, console, fs, mem, net};

/// The most bytes of a disk's serial. virtio 1.2 §5.2.6.1.
pub const MAX_SERIAL_LEN: usize = 20;
/// The most bytes of a tag of a file system. virtio 1.2 §5.11.4.
pub const MAX_TAG_LEN: usize = 36;
/// Those below are reserved. virtio 1.2 §5.10.4.
const FIRST_GUEST_CID: u32 = 3;
/// Descriptors below are the standard streams.
const FIRST_DESCRIPTOR: RawFd = 3;

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Descriptor of /dev/kvm.
    pub kvm: RawFd,
    /// Descriptor of the control socket, `SOCK_SEQPACKET`.
    pub control: RawFd,
    /// Descriptor of an ELF kernel.
    pub kernel: RawFd,
    /// Descriptor of an initramfs.
    #[serde(default)]
    pub initramfs: Option<RawFd>,
    /// Descriptor of the writing end of a pipe, for what the guest writes to its serial port.
    #[serde(default)]
    pub console: Option<RawFd>,
    /// Words for the kernel's command line. The machine adds those that name its devices.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// Processors.
    pub vcpus: Vcpus,
    /// Memory.
    pub memory: Memory,
    /// The processors wait for a request to start.
    #[serde(default)]
    pub start_paused: bool,
    /// What is on the bus.
    #[serde(default)]
    pub devices: Devices,
}

/// Processors of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vcpus {
    /// Those that the kernel brings up by itself.
    pub online: u32,
    /// Those that there are.
    pub max: u32,
}

/// Memory of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// From the start, in MiB.
    pub mib: u32,
    /// What virtio-mem can add to it, in MiB: with `mib`, no more than the host has. The guest gets
    /// none of it before it is asked for ([`mem::Config`], [`crate::control::Request::MemTarget`]),
    /// and then whole chunks: 128 MiB, or a 64th of the region rounded up to a power of two.
    #[serde(default)]
    pub hotplug_mib: u32,
}

impl From<Memory> for Size {
    fn from(memory: Memory) -> Self {
        Self { mib: memory.mib, hotplug_mib: memory.hotplug_mib }
    }
}

/// Virtio devices, in the order in which they are on the bus.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Devices {
    /// virtio-blk.
    pub disks: Vec<blk::Config>,
    /// virtio-net.
    pub nets: Vec<net::Config>,
    /// virtio-vsock.
    pub vsock: Option<Vsock>,
    /// virtio-rng.
    pub rng: bool,
    /// virtio-balloon.
    pub balloon: Option<balloon::Config>,
    /// virtio-mem: there if the machine has hot-plug memory.
    pub mem: mem::Config,
    /// virtio-fs.
    pub shares: Vec<fs::Config>,
    /// virtio-console, beside the serial port.
    pub console: Option<console::Config>,
}

/// Byte streams between guest and host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// Descriptor of the socket over which the host's ends of streams come and go,
    /// `SOCK_SEQPACKET`.
    pub host: RawFd,
    /// The guest's address.
    pub guest_cid: u32,
    /// The host's address.
    pub host_cid: u32,
}

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// /dev/kvm.
    Kvm,
    /// The control socket.
    Control,
    /// The kernel's file.
    Kernel,
    /// The initramfs' file.
    Initramfs,
    /// Output of the serial port or of a console.
    Console,
    /// Input of a console.
    ConsoleInput,
    /// A disk's image.
    Disk {
        /// It is only read.
        read_only: bool,
    },
    /// A network interface's tap.
    Tap,
    /// The vsock device's socket.
    Streams,
    /// The connection to a file system's server.
    Share,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Control => "control socket",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Console => "console",
            Self::ConsoleInput => "console's input",
            Self::Disk { .. } => "disk",
            Self::Tap => "tap",
            Self::Streams => "vsock socket",
            Self::Share => "file system socket",
        })
    }
}

/// What is wrong with a machine.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No number of processors that there can be.
    #[error("{online} of {max} virtual CPUs online: 1 to {MAX_VCPUS} are possible")]
    Vcpus {
        /// As configured.
        online: u32,
        /// As configured.
        max: u32,
    },
    /// No amount of memory that there can be.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The bus has no room.
    #[error("{count} devices: {MAX_VIRTIO_DEVICES} are possible")]
    Devices {
        /// As configured.
        count: usize,
    },
    /// What should be there once is there twice.
    #[error("{what} {name} appears twice")]
    Twice {
        /// Of what kind.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// What the guest could not find.
    #[error("{what} {name:?} is not 1 to {max} letters, digits, -_.")]
    Name {
        /// Of what kind.
        what: &'static str,
        /// As configured.
        name: String,
        /// The most characters.
        max: usize,
    },
    /// An address that is not a guest's, or the host's own.
    #[error("vsock address {guest_cid} of the guest, {host_cid} of the host")]
    Cid {
        /// As configured.
        guest_cid: u32,
        /// As configured.
        host_cid: u32,
    },
    /// A standard stream, or none.
    #[error("descriptor {number} of the {role}: {FIRST_DESCRIPTOR} is the first one possible")]
    Descriptor {
        /// As configured.
        number: RawFd,
        /// What for.
        role: Role,
    },
    /// A word that is none, or several.
    #[error("word {0:?} for the kernel's command line")]
    Word(String),
}

impl Config {
    /// Every descriptor, and what it is for.
    #[must_use]
    pub fn descriptors(&self) -> Vec<(RawFd, Role)> {
        let devices = &self.devices;
        let mut list =
            vec![(self.kvm, Role::Kvm), (self.control, Role::Control), (self.kernel, Role::Kernel)];
        list.extend(self.initramfs.map(|fd| (fd, Role::Initramfs)));
        list.extend(self.console.map(|fd| (fd, Role::Console)));
        let disk = |disk: &blk::Config| (disk.file, Role::Disk { read_only: disk.read_only });
        list.extend(devices.disks.iter().map(disk));
        list.extend(devices.nets.iter().map(|net| (net.tap, Role::Tap)));
        list.extend(devices.vsock.iter().map(|vsock| (vsock.host, Role::Streams)));
        list.extend(devices.shares.iter().map(|share| (share.socket, Role::Share)));
        if let Some(console) = &devices.console {
            list.push((console.output, Role::Console));
            list.extend(console.input.map(|fd| (fd, Role::ConsoleInput)));
        }
        list
    }

    /// Number of devices on the bus.
    #[must_use]
    pub fn device_count(&self) -> usize {
        let Devices { disks, nets, vsock, rng, balloon, mem: _, shares, console } = &self.devices;
        let one = [
            vsock.is_some(),
            *rng,
            balloon.is_some(),
            self.memory.hotplug_mib > 0,
            console.is_some(),
        ];
        disks.len() + nets.len() + shares.len() + one.into_iter().filter(|there| *there).count()
    }

    /// Whether there can be such a machine on this host. Looks at the host's memory only.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Vcpus { online, max } = self.vcpus;
        if online == 0 || online > max || max > u32::from(MAX_VCPUS) {
            return Err(ConfigError::Vcpus { online, max });
        }
        memory::check(self.memory.into())?;
        let count = self.device_count();
        if count > MAX_VIRTIO_DEVICES {
            return Err(ConfigError::Devices { count });
        }
        self.validate_descriptors()?;
        self.devices.validate()?;
        match self.command_line.iter().find(|word| !is_word(word)) {
            Some(word) => Err(ConfigError::Word(word.clone())),
            None => Ok(()),
        }
    }

    fn validate_descriptors(&self) -> Result<(), ConfigError> {
        let descriptors = self.descriptors();
        for &(number, role) in &descriptors {
            if number < FIRST_DESCRIPTOR {
                return Err(ConfigError::Descriptor { number, role });
            }
        }
        once("descriptor", descriptors.iter().map(|(number, _)| number), RawFd::to_string)
    }
}

impl Devices {
    fn validate(&self) -> Result<(), ConfigError> {
        let serials = || self.disks.iter().map(|disk| &disk.serial);
        serials().try_for_each(|serial| check_name("disk serial", serial, MAX_SERIAL_LEN))?;
        once("disk serial", serials(), String::clone)?;
        let tags = || self.shares.iter().map(|share| &share.tag);
        tags().try_for_each(|tag| check_name("file system tag", tag, MAX_TAG_LEN))?;
        once("file system tag", tags(), String::clone)?;
        once("network address", self.nets.iter().map(|net| &net.mac), Mac::to_string)?;
        if let Some(&Vsock { guest_cid, host_cid, .. }) = self.vsock.as_ref()
            && (guest_cid < FIRST_GUEST_CID || guest_cid == u32::MAX || guest_cid == host_cid)
        {
            return Err(ConfigError::Cid { guest_cid, host_cid });
        }
        Ok(())
    }
}

/// Whether a name is one that a guest finds: it also becomes part of paths there.
#[must_use]
pub fn is_plain(name: &str, max: usize) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=max).contains(&name.len()) && name.chars().all(plain)
}

fn check_name(what: &'static str, name: &str, max: usize) -> Result<(), ConfigError> {
    if is_plain(name, max) {
        return Ok(());
    }
    Err(ConfigError::Name { what, name: name.to_owned(), max })
}

fn once<'a, T: Eq + Hash + 'a>(
    what: &'static str,
    all: impl Iterator<Item = &'a T>,
    show: impl Fn(&T) -> String,
) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for one in all {
        if !seen.insert(one) {
            return Err(ConfigError::Twice { what, name: show(one) });
        }
    }
    Ok(())
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && !word.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests;
