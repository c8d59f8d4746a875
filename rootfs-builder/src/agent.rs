//! Whether a file can be the init of the guest: a static ELF program for x86-64.
//! Not a loader: nothing of it is run or mapped.

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

/// Why a file cannot be the agent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AgentError {
    /// Not a 64-bit little-endian ELF file, or a damaged one.
    #[error("not a 64-bit ELF program")]
    NotElf,
    /// For another processor. ELF specification, `e_machine`.
    #[error("built for another processor (e_machine {machine}), not for x86-64")]
    Machine {
        /// `e_machine` as found.
        machine: u16,
    },
    /// An object file, a core dump, or the like.
    #[error("an ELF file, but not a program")]
    NotProgram,
    /// Has a program header `PT_INTERP`: there is no loader in the guest.
    #[error("dynamically linked: the guest has no loader (build for x86_64-unknown-linux-musl)")]
    Dynamic,
}

/// Checks that `bytes` is a program which starts in an empty root.
///
/// # Errors
/// [`AgentError`], the first thing that is wrong.
pub fn check(bytes: &[u8]) -> Result<(), AgentError> {
    let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(|_| AgentError::NotElf)?;
    let endian = header.endian().map_err(|_| AgentError::NotElf)?;
    let machine = header.e_machine(endian);
    if machine != elf::EM_X86_64 {
        return Err(AgentError::Machine { machine });
    }
    if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
        return Err(AgentError::NotProgram);
    }
    let segments = header.program_headers(endian, bytes).map_err(|_| AgentError::NotElf)?;
    let has = |kind| segments.iter().any(|segment| segment.p_type(endian) == kind);
    if has(elf::PT_INTERP) {
        return Err(AgentError::Dynamic);
    }
    if !has(elf::PT_LOAD) {
        return Err(AgentError::NotProgram);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ELF header and one program header of the given type.
    pub(crate) fn program(machine: u16, elf_type: u16, segment: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        bytes[16..18].copy_from_slice(&elf_type.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[20] = 1;
        bytes[32] = 64;
        bytes[52] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&segment.to_le_bytes());
        bytes
    }

    #[test]
    fn static_program_is_accepted_with_and_without_fixed_address() {
        for elf_type in [elf::ET_EXEC, elf::ET_DYN] {
            assert_eq!(check(&program(elf::EM_X86_64, elf_type, elf::PT_LOAD)), Ok(()));
        }
    }

    #[test]
    fn dynamic_program_is_refused() {
        let bytes = program(elf::EM_X86_64, elf::ET_DYN, elf::PT_INTERP);
        assert_eq!(check(&bytes), Err(AgentError::Dynamic));
    }

    #[test]
    fn program_of_another_processor_is_refused_by_its_number() {
        let bytes = program(elf::EM_AARCH64, elf::ET_EXEC, elf::PT_LOAD);
        assert_eq!(check(&bytes), Err(AgentError::Machine { machine: elf::EM_AARCH64 }));
    }

    #[test]
    fn object_file_and_program_without_code_are_refused() {
        let object_file = program(elf::EM_X86_64, elf::ET_REL, elf::PT_LOAD);
        assert_eq!(check(&object_file), Err(AgentError::NotProgram));
        let empty = program(elf::EM_X86_64, elf::ET_EXEC, elf::PT_NULL);
        assert_eq!(check(&empty), Err(AgentError::NotProgram));
    }

    #[test]
    fn script_and_cut_off_program_are_refused() {
        assert_eq!(check(b"#!/bin/sh\n"), Err(AgentError::NotElf));
        let bytes = program(elf::EM_X86_64, elf::ET_EXEC, elf::PT_LOAD);
        for len in 0..bytes.len() {
            assert_eq!(check(&bytes[..len]), Err(AgentError::NotElf), "first {len} bytes");
        }
    }
}
