//! What a machine for a bare-metal guest has, and its files. Starts nothing.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use husk_vmm::config::{Config, Devices, Memory, Vcpus, Vsock};
use husk_vmm::rate_limit::Limits;
use husk_vmm::virtio::blk::EngineKind;
use husk_vmm::virtio::net::Mac;
use husk_vmm::virtio::{balloon, blk, console, fs, mem, net};

use super::{Share, Tap};
use crate::guest::init_program;

/// Of the vsock device, as the guests take it for granted.
pub(super) const GUEST_CID: u32 = 3;
pub(super) const HOST_CID: u32 = 2;
/// Of the network interface.
pub(super) const MAC: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
/// Where an ELF file says its entry, e_entry.
const ELF_ENTRY: std::ops::Range<usize> = 24..32;

/// By which entry the guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The 64-bit entry of Linux, which is preferred.
    Linux,
    /// PVH: the program has no other.
    Pvh,
}

/// A disk of a guest.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The raw image.
    pub path: PathBuf,
    /// By what the guest finds it.
    pub serial: String,
    /// Refused by the device, and opened so.
    pub read_only: bool,
    /// Who does the work.
    pub engine: EngineKind,
    /// Token buckets.
    pub limits: Limits,
}

/// A kernel to boot in place of a bare-metal guest.
#[derive(Debug, Clone)]
pub struct Linux {
    /// An ELF file.
    pub kernel: PathBuf,
    /// A cpio archive whose `/init` runs.
    pub initramfs: PathBuf,
    /// Its command line.
    pub words: Vec<String>,
}

/// What a machine runs.
#[derive(Debug, Clone)]
pub enum Kernel {
    /// The bare-metal guest, which does what the case says, by one of its entries.
    BareMetal(Protocol),
    /// Another guest: the case is then but a name.
    Linux(Linux),
}

/// How large a machine is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Processors that there are; one is online.
    pub vcpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// What virtio-mem may add.
    pub hotplug_mib: u32,
    /// What of it should be plugged at the start.
    pub plugged_mib: u32,
    /// What the balloon should take at the start, if there is one.
    pub balloon_mib: Option<u32>,
}

/// One processor and 64 MiB.
impl Default for Size {
    fn default() -> Self {
        Self { vcpus: 1, memory_mib: 64, hotplug_mib: 0, plugged_mib: 0, balloon_mib: None }
    }
}

/// A machine. As little as possible unless said otherwise.
#[derive(Debug)]
pub struct Setup {
    /// The case and its words: `rng`, `ring-wraps chains=100`.
    pub case: String,
    /// The guest.
    pub kernel: Kernel,
    /// Processors and memory.
    pub size: Size,
    /// Block devices.
    pub disks: Vec<Disk>,
    /// The network device's tap.
    pub tap: Option<Tap>,
    /// File system devices.
    pub shares: Vec<Share>,
    /// An entropy device.
    pub rng: bool,
    /// A vsock device.
    pub vsock: bool,
    /// A virtio console, whose output becomes [`super::Ended::console`].
    pub console: bool,
    /// The processors wait for a request to start.
    pub start_paused: bool,
    /// Of the VMM's process, if it is to be another than the test's.
    pub user: Option<u32>,
}

impl Setup {
    /// A machine of the least size with an entropy device.
    #[must_use]
    pub fn new(case: &str) -> Self {
        Self {
            case: case.to_owned(),
            kernel: Kernel::BareMetal(Protocol::Linux),
            size: Size::default(),
            disks: Vec::new(),
            tap: None,
            shares: Vec::new(),
            rng: true,
            vsock: false,
            console: false,
            start_paused: false,
            user: None,
        }
    }

    /// The same with a disk of zeroes, deleted with the folder that it is in.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    pub fn disk(mut self, folder: &tempfile::TempDir, mib: u64) -> Self {
        let path = folder.path().join(format!("disk{}", self.disks.len()));
        let file = File::create(&path).expect("a disk can be made");
        file.set_len(mib << 20).expect("a disk can be sparse");
        let serial = format!("disk{}", self.disks.len());
        let (engine, limits) = (EngineKind::Auto, Limits::default());
        self.disks.push(Disk { path, serial, read_only: false, engine, limits });
        self
    }

    /// The same of another size.
    #[must_use]
    pub fn sized(self, size: Size) -> Self {
        Self { size, ..self }
    }

    fn linux(&self) -> Option<&Linux> {
        match &self.kernel {
            Kernel::Linux(linux) => Some(linux),
            Kernel::BareMetal(_) => None,
        }
    }

    /// The guest's program, with both entries or with one.
    fn program(&self) -> io::Result<File> {
        let path = init_program("bare-metal");
        match &self.kernel {
            Kernel::Linux(linux) => return File::open(&linux.kernel),
            Kernel::BareMetal(Protocol::Linux) => return File::open(path),
            Kernel::BareMetal(Protocol::Pvh) => {}
        }
        let mut program = std::fs::read(path)?;
        program[ELF_ENTRY].fill(0);
        let mut file = tempfile::tempfile()?;
        file.write_all(&program)?;
        file.rewind()?;
        Ok(file)
    }

    /// Opens what the VMM inherits.
    pub(super) fn open(&self, kvm: File) -> io::Result<Files> {
        let open = |disk: &Disk| File::options().read(true).write(!disk.read_only).open(&disk.path);
        Ok(Files {
            kvm,
            kernel: self.program()?,
            initramfs: self.linux().map(|linux| File::open(&linux.initramfs)).transpose()?,
            disks: self.disks.iter().map(open).collect::<Result<_, _>>()?,
        })
    }

    /// What the VMM is told.
    pub(super) fn config(&self, files: &Files, wires: &Wires<'_>) -> Config {
        let disk = |(disk, file): (&Disk, &File)| blk::Config {
            file: file.as_raw_fd(),
            serial: disk.serial.clone(),
            read_only: disk.read_only,
            disposable: false,
            engine: disk.engine,
            limits: disk.limits,
        };
        let number = |wire: BorrowedFd<'_>| -> RawFd { wire.as_raw_fd() };
        let net = |tap: &Tap| net::Config {
            tap: number(tap.as_fd()),
            mac: MAC,
            mtu: None,
            anti_spoof: true,
            rx_limits: Limits::default(),
            tx_limits: Limits::default(),
        };
        let share = |share: &Share| fs::Config {
            socket: share.socket.as_raw_fd(),
            tag: share.tag.to_owned(),
            request_queues: 1,
        };
        Config {
            kvm: files.kvm.as_raw_fd(),
            control: number(wires.control),
            kernel: files.kernel.as_raw_fd(),
            initramfs: files.initramfs.as_ref().map(AsRawFd::as_raw_fd),
            console: Some(number(wires.serial)),
            command_line: match self.linux() {
                Some(linux) => linux.words.clone(),
                None => format!("case={}", self.case).split(' ').map(String::from).collect(),
            },
            vcpus: Vcpus { online: 1, max: self.size.vcpus },
            memory: Memory { mib: self.size.memory_mib, hotplug_mib: self.size.hotplug_mib },
            start_paused: self.start_paused,
            devices: Devices {
                disks: self.disks.iter().zip(&files.disks).map(disk).collect(),
                nets: self.tap.iter().map(net).collect(),
                vsock: self.vsock.then(|| Vsock {
                    host: number(wires.streams),
                    guest_cid: GUEST_CID,
                    host_cid: HOST_CID,
                }),
                rng: self.rng,
                balloon: self
                    .size
                    .balloon_mib
                    .map(|mib| balloon::Config { mib, ..Default::default() }),
                mem: mem::Config { mib: self.size.plugged_mib },
                shares: self.shares.iter().map(share).collect(),
                console: self.console.then(|| console::Config {
                    output: number(wires.console),
                    input: None,
                    size: None,
                }),
            },
        }
    }

    /// Every descriptor that the VMM gets.
    pub(super) fn keep<'a>(&'a self, files: &'a Files, wires: &Wires<'a>) -> Vec<BorrowedFd<'a>> {
        let mut keep = vec![files.kvm.as_fd(), files.kernel.as_fd(), wires.control, wires.serial];
        keep.extend(files.initramfs.as_ref().map(AsFd::as_fd));
        keep.extend(files.disks.iter().map(File::as_fd));
        keep.extend(self.tap.iter().map(AsFd::as_fd));
        keep.extend(self.shares.iter().map(|share| share.socket.as_fd()));
        keep.extend(self.vsock.then_some(wires.streams));
        keep.extend(self.console.then_some(wires.console));
        keep
    }
}

/// Open files of a machine.
pub(super) struct Files {
    kvm: File,
    kernel: File,
    initramfs: Option<File>,
    disks: Vec<File>,
}

/// The VMM's ends.
pub(super) struct Wires<'a> {
    pub control: BorrowedFd<'a>,
    pub serial: BorrowedFd<'a>,
    pub console: BorrowedFd<'a>,
    pub streams: BorrowedFd<'a>,
}

/// So that a tap can be named beside other descriptors.
impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd: &OwnedFd = self.descriptor();
        fd.as_fd()
    }
}
