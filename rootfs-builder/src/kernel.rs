//! Whether a file is a kernel that every hypervisor here can start: an uncompressed ELF program
//! for x86-64 with a PVH entry beside its 64-bit one. Nothing of it is run.

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

/// Xen public headers, elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`: where PVH starts the kernel.
pub(crate) const PVH_ENTRY: u32 = 18;

/// Why a file cannot be the guest kernel.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KernelError {
    /// Compressed (bzImage), for another processor, or damaged.
    #[error("not an uncompressed x86-64 ELF kernel (vmlinux)")]
    NotVmlinux,
    /// The configuration lacks `CONFIG_PVH`.
    #[error("no PVH entry (CONFIG_PVH is off)")]
    NoPvhEntry,
}

/// Checks that `bytes` is a kernel which QEMU and the built-in VMM can start.
///
/// # Errors
/// [`KernelError`], the first thing that is wrong.
pub fn check(bytes: &[u8]) -> Result<(), KernelError> {
    let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(|_| KernelError::NotVmlinux)?;
    let endian = header.endian().map_err(|_| KernelError::NotVmlinux)?;
    if header.e_machine(endian) != elf::EM_X86_64 || header.e_type(endian) != elf::ET_EXEC {
        return Err(KernelError::NotVmlinux);
    }
    let segments = header.program_headers(endian, bytes).map_err(|_| KernelError::NotVmlinux)?;
    for segment in segments {
        let Some(mut notes) = segment.notes(endian, bytes).map_err(|_| KernelError::NotVmlinux)?
        else {
            continue;
        };
        while let Some(note) = notes.next().map_err(|_| KernelError::NotVmlinux)? {
            if note.name() == b"Xen" && note.n_type(endian) == PVH_ENTRY {
                return Ok(());
            }
        }
    }
    Err(KernelError::NoPvhEntry)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::agent::tests::program;

    /// A kernel of one note.
    pub(crate) fn kernel(note_type: u32) -> Vec<u8> {
        let mut bytes = program(elf::EM_X86_64, elf::ET_EXEC, elf::PT_NOTE);
        let offset = bytes.len() as u64;
        for field in [4, 4, note_type] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(b"Xen\0\0\0\0\x01");
        let size = bytes.len() as u64 - offset;
        bytes[72..80].copy_from_slice(&offset.to_le_bytes());
        bytes[96..104].copy_from_slice(&size.to_le_bytes());
        bytes
    }

    #[test]
    fn kernel_with_a_pvh_entry_is_accepted() {
        assert_eq!(check(&kernel(PVH_ENTRY)), Ok(()));
    }

    #[test]
    fn kernel_without_a_pvh_entry_is_refused_by_its_option() {
        assert_eq!(check(&kernel(PVH_ENTRY + 1)), Err(KernelError::NoPvhEntry));
        let without_notes = program(elf::EM_X86_64, elf::ET_EXEC, elf::PT_LOAD);
        assert_eq!(check(&without_notes), Err(KernelError::NoPvhEntry));
    }

    #[test]
    fn compressed_kernel_and_cut_off_kernel_are_refused() {
        assert_eq!(check(&[0x1f, 0x8b, 8, 0]), Err(KernelError::NotVmlinux));
        let bytes = kernel(PVH_ENTRY);
        assert!(check(&bytes[..bytes.len() - 1]).is_err());
    }
}
