//! Puts a kernel into fresh guest memory so that the first processor can start in it. Knows no KVM
//! beyond its registers, and no device beyond its words on the command line.
//!
//! ```text
//! inspect kernel -> choose entry -> place initramfs -> write all -> Entry
//!        '----------------'----------------'--> BootError, nothing was written
//! ```
//!
//! - [`kernel`]: the ELF file, and which entries it has;
//! - [`initramfs`]: where it goes;
//! - [`memory_map`]: which memory there is, for both protocols;
//! - [`zero_page`], [`pvh`]: what each protocol tells the kernel;
//! - [`mp_table`]: processors and interrupts;
//! - [`cpu_state`]: tables and registers of the first processor.

pub mod cpu_state;
pub mod initramfs;
pub mod kernel;
pub mod memory_map;
pub mod mp_table;
pub mod pvh;
#[cfg(test)]
mod testing;
pub mod zero_page;

use std::fs::File;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

pub use cpu_state::Entry;
pub use initramfs::InitramfsError;
pub use kernel::KernelError;

use crate::Memory;
use crate::layout::{
    COMMAND_LINE, COMMAND_LINE_MAX, MAX_VIRTIO_DEVICES, MP_TABLE, PVH_INFO, VIRTIO_BASE,
    VIRTIO_FIRST_GSI, VIRTIO_STRIDE, ZERO_PAGE,
};
use kernel::Kernel;
use memory_map::MemoryMap;

/// The most virtual CPUs of a machine.
pub const MAX_VCPUS: u8 = 32;

/// How the first processor enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// In long mode, with the zero page. Linux Documentation/arch/x86/boot.rst, "64-bit boot
    /// protocol".
    Linux64,
    /// In protected mode without paging, with hvm_start_info. Xen docs/misc/pvh.pandoc.
    Pvh,
}

/// What is loaded. The files' positions stay where they are.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// An ELF file for x86-64.
    pub kernel: &'a File,
    /// Any regular file.
    pub initramfs: Option<&'a File>,
}

/// Virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpus {
    /// Those that the kernel starts by itself.
    pub online: u8,
    /// Those that the machine has; the rest waits to be brought online.
    pub max: u8,
}

/// Why a machine cannot boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// It is no kernel for this machine.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initramfs cannot be loaded.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The command line is too long.
    #[error("the kernel's command line has {len} bytes, and {max} are the most")]
    CommandLineTooLong {
        /// Its bytes, with the words of the machine.
        len: usize,
        /// The most.
        max: usize,
    },
    /// The command line would end early, or be more than a line.
    #[error("the kernel's command line has the control character {byte:#04x}")]
    CommandLineByte {
        /// What must not be in it.
        byte: u8,
    },
    /// Not a number of CPUs that there can be.
    #[error("{online} of {max} virtual CPUs online: 1 to {MAX_VCPUS} are possible")]
    Vcpus {
        /// Those that were to be online.
        online: u8,
        /// Those that were to be there.
        max: u8,
    },
    /// Memory lacks what every machine has.
    #[error("write boot parameters to guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// Loads `images` into fresh memory, by the 64-bit entry if the kernel has one, else by PVH.
///
/// # Errors
/// [`BootError`].
pub fn load(
    memory: &Memory,
    images: &Images<'_>,
    command_line: &str,
    vcpus: Vcpus,
) -> Result<Entry, BootError> {
    load_by(None, memory, images, command_line, vcpus)
}

/// As [`load`], by the given protocol or none.
///
/// # Errors
/// [`BootError`]; of the kernel, also that it lacks the entry.
pub fn load_by(
    protocol: Option<Protocol>,
    memory: &Memory,
    images: &Images<'_>,
    command_line: &str,
    vcpus: Vcpus,
) -> Result<Entry, BootError> {
    let Vcpus { online, max } = vcpus;
    if online == 0 || online > max || max > MAX_VCPUS {
        return Err(BootError::Vcpus { online, max });
    }
    let command_line = CommandLine::new(command_line, vcpus)?;
    let map = MemoryMap::of(memory);
    let kernel = Kernel::inspect(images.kernel, map.low_end())?;
    let entry = kernel.entry(protocol)?;
    let initramfs = images
        .initramfs
        .map(|file| initramfs::place(file, kernel.end()..map.low_end()))
        .transpose()?;

    kernel.load(images.kernel, memory)?;
    if let (Some(file), Some(range)) = (images.initramfs, &initramfs) {
        initramfs::load(file, range, memory)?;
    }
    memory.write_slice(&command_line.0, GuestAddress(COMMAND_LINE))?;
    memory.write_slice(&mp_table::build(max), GuestAddress(MP_TABLE))?;
    match entry.protocol {
        Protocol::Linux64 => {
            let page = zero_page::build(&map, command_line.len(), initramfs.as_ref());
            memory.write_obj(page, GuestAddress(ZERO_PAGE))?;
        }
        Protocol::Pvh => pvh::write(memory, GuestAddress(PVH_INFO), &map, initramfs.as_ref())?,
    }
    entry.write_tables(memory)?;
    Ok(entry)
}

/// The words for the command line that tell Linux of the first `count` virtio devices: their
/// registers and interrupts. Linux Documentation/admin-guide/kernel-parameters.txt,
/// `virtio_mmio.device=`.
#[must_use]
pub fn device_words(count: usize) -> String {
    let word = |(slot, gsi)| {
        let base = VIRTIO_BASE + slot * VIRTIO_STRIDE;
        format!("virtio_mmio.device={VIRTIO_STRIDE:#x}@{base:#x}:{gsi}")
    };
    let slots = (0..).zip(VIRTIO_FIRST_GSI..).take(count.min(MAX_VIRTIO_DEVICES));
    slots.map(word).collect::<Vec<_>>().join(" ")
}

/// A command line with its zero.
struct CommandLine(Vec<u8>);

impl CommandLine {
    /// `maxcpus=` stands before the caller's words: behind a `--` they are for init.
    fn new(words: &str, vcpus: Vcpus) -> Result<Self, BootError> {
        let words = words.trim();
        if let Some(byte) = words.bytes().find(u8::is_ascii_control) {
            return Err(BootError::CommandLineByte { byte });
        }
        let line = if vcpus.online < vcpus.max {
            format!("maxcpus={} {words}", vcpus.online)
        } else {
            words.to_owned()
        };
        let max = COMMAND_LINE_MAX - 1;
        if line.len() > max {
            return Err(BootError::CommandLineTooLong { len: line.len(), max });
        }
        let mut bytes = line.into_bytes();
        bytes.push(0);
        Ok(Self(bytes))
    }

    /// Without the zero.
    fn len(&self) -> usize {
        self.0.len() - 1
    }
}

#[cfg(test)]
mod tests;
