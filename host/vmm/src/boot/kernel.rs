//! The kernel's ELF file: what it loads where, and which entries it has. The file is the user's and
//! may be anything: all of it is checked before any of it is loaded.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::elf::{
    EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_DYN, ET_EXEC, Elf64_Ehdr, Elf64_Phdr,
    PT_LOAD, PT_NOTE,
};
use vm_memory::ByteValued;

use super::{Entry, Protocol};
use crate::Memory;
use crate::layout::HIGH_MEMORY;
use crate::memory;

/// The most program headers; a kernel has 5.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// The most bytes of notes that are looked at; a kernel has about 100.
const MAX_NOTES_LEN: u64 = 64 << 10;
const MAGIC: [u8; 4] = *b"\x7fELF";
/// Of the note that has the 32-bit entry. Xen public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE_PHYS32_ENTRY: u32 = 18;
/// See [`NOTE_PHYS32_ENTRY`].
const NOTE_NAME: [u8; 4] = *b"Xen\0";
/// Name length, descriptor length, type. System V ABI, "Note Section".
const NOTE_HEADER_LEN: usize = 12;

/// Why a file is no kernel for this machine.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A folder, a pipe, a device.
    #[error("the kernel is no regular file")]
    NotRegular,
    /// It could not be read.
    #[error("read the kernel")]
    Read(#[source] io::Error),
    /// Not an ELF file.
    #[error("the kernel is no ELF file: an uncompressed vmlinux is needed")]
    NotElf,
    /// For other machines, or not a program.
    #[error("the kernel is an ELF file, but no 64-bit program for x86-64")]
    OtherMachine,
    /// It ends before what its headers speak of.
    #[error("the kernel's file is cut off: {what} end behind its {file_len} bytes")]
    Truncated {
        /// What is missing.
        what: &'static str,
        /// What there is.
        file_len: u64,
    },
    /// Headers that make no sense.
    #[error("the kernel's program headers make no sense: {reason}")]
    Headers {
        /// Why, for people.
        reason: &'static str,
    },
    /// Not where a kernel may be.
    #[error(
        "the kernel wants {len:#x} bytes at {addr:#x}, and may have {HIGH_MEMORY:#x} to {low_end:#x}"
    )]
    OutsideMemory {
        /// Where.
        addr: u64,
        /// How much.
        len: u64,
        /// The end of memory below the hole.
        low_end: u64,
    },
    /// No protocol can enter it.
    #[error("the kernel has no entry")]
    NoEntry,
    /// The entry is not in what is loaded.
    #[error("the kernel's entry {addr:#x} is not in what it loads")]
    EntryOutside {
        /// Where it would be.
        addr: u64,
    },
    /// The entry that was asked for is missing.
    #[error("the kernel has no PVH entry")]
    NoPvhEntry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    addr: u64,
    /// In memory; what the file does not have is zero.
    len: u64,
    file_offset: u64,
    file_len: u64,
}

/// A kernel whose file was looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// By address, apart from each other.
    segments: Vec<Segment>,
    linux64: u64,
    pvh: Option<u64>,
}

impl Kernel {
    /// Looks at all that is loaded of `file`, with memory up to `low_end`.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn inspect(file: &File, low_end: u64) -> Result<Self, KernelError> {
        let metadata = file.metadata().map_err(KernelError::Read)?;
        if !metadata.is_file() {
            return Err(KernelError::NotRegular);
        }
        let reader = Reader { file, len: metadata.len() };
        let header = reader.header()?;
        let mut segments = Vec::new();
        let mut pvh = None;
        for program_header in reader.program_headers(&header)? {
            match program_header.p_type {
                PT_LOAD if program_header.p_memsz > 0 => {
                    segments.push(reader.segment(&program_header, low_end)?);
                }
                PT_NOTE => pvh = pvh.or(pvh_entry(&reader.notes(&program_header)?)),
                _ => {}
            }
        }
        segments.sort_unstable_by_key(|segment| segment.addr);
        let overlap = |pair: &[Segment]| pair[0].addr + pair[0].len > pair[1].addr;
        if segments.windows(2).any(overlap) {
            return Err(KernelError::Headers { reason: "its segments overlap" });
        }
        Ok(Self { segments, linux64: header.e_entry, pvh })
    }

    /// The first address behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(HIGH_MEMORY, |last| last.addr + last.len)
    }

    /// Where to enter it: by the 64-bit entry if it has one, unless told otherwise.
    ///
    /// # Errors
    /// That there is none, or none in what is loaded.
    pub fn entry(&self, protocol: Option<Protocol>) -> Result<Entry, KernelError> {
        let linux64 = self.checked(Protocol::Linux64, Some(self.linux64).filter(|&at| at != 0));
        match protocol {
            Some(Protocol::Linux64) => linux64,
            Some(Protocol::Pvh) => {
                self.checked(Protocol::Pvh, self.pvh).map_err(|error| match error {
                    KernelError::NoEntry => KernelError::NoPvhEntry,
                    other => other,
                })
            }
            None => linux64.or_else(|error| match self.pvh {
                Some(_) => self.checked(Protocol::Pvh, self.pvh),
                None => Err(error),
            }),
        }
    }

    fn checked(&self, protocol: Protocol, address: Option<u64>) -> Result<Entry, KernelError> {
        let addr = address.ok_or(KernelError::NoEntry)?;
        let holds = |segment: &Segment| (segment.addr..segment.addr + segment.len).contains(&addr);
        if !self.segments.iter().any(holds) {
            return Err(KernelError::EntryOutside { addr });
        }
        Ok(Entry { protocol, address: addr })
    }

    /// Copies it into fresh memory, where what its file does not have is zero already.
    ///
    /// # Errors
    /// That the file could not be read, or was cut off meanwhile.
    pub fn load(&self, file: &File, memory: &Memory) -> Result<(), KernelError> {
        for segment in &self.segments {
            let Segment { addr, file_offset, file_len, .. } = *segment;
            memory::copy_from_file(memory, addr, file, file_offset, file_len)
                .map_err(KernelError::Read)?;
        }
        Ok(())
    }
}

/// The file by parts, without its position.
struct Reader<'a> {
    file: &'a File,
    len: u64,
}

impl Reader<'_> {
    fn check(&self, what: &'static str, offset: u64, len: u64) -> Result<(), KernelError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(KernelError::Truncated { what, file_len: self.len });
        }
        Ok(())
    }

    fn header(&self) -> Result<Elf64_Ehdr, KernelError> {
        let mut magic = [0; MAGIC.len()];
        if self.len < MAGIC.len() as u64 {
            return Err(KernelError::NotElf);
        }
        self.file.read_exact_at(&mut magic, 0).map_err(KernelError::Read)?;
        if magic != MAGIC {
            return Err(KernelError::NotElf);
        }
        let mut header = Elf64_Ehdr::default();
        self.check("headers", 0, size_of::<Elf64_Ehdr>() as u64)?;
        self.file.read_exact_at(header.as_mut_slice(), 0).map_err(KernelError::Read)?;
        let fits = header.e_ident[EI_CLASS] == ELFCLASS64
            && header.e_ident[EI_DATA] == ELFDATA2LSB
            && header.e_machine == EM_X86_64
            && [ET_EXEC, ET_DYN].contains(&header.e_type);
        if !fits {
            return Err(KernelError::OtherMachine);
        }
        Ok(header)
    }

    fn program_headers(&self, header: &Elf64_Ehdr) -> Result<Vec<Elf64_Phdr>, KernelError> {
        let count = header.e_phnum;
        if count == 0 || count > MAX_PROGRAM_HEADERS {
            return Err(KernelError::Headers { reason: "it has none, or more than 64" });
        }
        if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() {
            return Err(KernelError::Headers { reason: "one has not 56 bytes" });
        }
        let mut headers = vec![Elf64_Phdr::default(); usize::from(count)];
        let len = u64::from(count) * size_of::<Elf64_Phdr>() as u64;
        self.check("program headers", header.e_phoff, len)?;
        let mut at = header.e_phoff;
        for program_header in &mut headers {
            let bytes = program_header.as_mut_slice();
            self.file.read_exact_at(bytes, at).map_err(KernelError::Read)?;
            at += size_of::<Elf64_Phdr>() as u64;
        }
        Ok(headers)
    }

    fn segment(&self, header: &Elf64_Phdr, low_end: u64) -> Result<Segment, KernelError> {
        let Elf64_Phdr { p_paddr: addr, p_memsz: len, p_offset, p_filesz, .. } = *header;
        let inside = addr.checked_add(len).is_some_and(|end| end <= low_end);
        if addr < HIGH_MEMORY || !inside {
            return Err(KernelError::OutsideMemory { addr, len, low_end });
        }
        if p_filesz > len {
            return Err(KernelError::Headers { reason: "a segment is larger in its file" });
        }
        self.check("segments", p_offset, p_filesz)?;
        Ok(Segment { addr, len, file_offset: p_offset, file_len: p_filesz })
    }

    fn notes(&self, header: &Elf64_Phdr) -> Result<Vec<u8>, KernelError> {
        self.check("notes", header.p_offset, header.p_filesz)?;
        let len = usize::try_from(header.p_filesz.min(MAX_NOTES_LEN)).unwrap_or_default();
        let mut notes = vec![0; len];
        self.file.read_exact_at(&mut notes, header.p_offset).map_err(KernelError::Read)?;
        Ok(notes)
    }
}

/// The 32-bit entry, if a note has it. Notes that make no sense end the search.
fn pvh_entry(mut notes: &[u8]) -> Option<u64> {
    loop {
        let (header, rest) = notes.split_at_checked(NOTE_HEADER_LEN)?;
        let word = |index: usize| {
            let bytes = header.get(index * 4..index * 4 + 4)?;
            bytes.try_into().ok().map(u32::from_le_bytes)
        };
        let (name_len, descriptor_len, kind) = (word(0)?, word(1)?, word(2)?);
        let (name, rest) = split_padded(rest, name_len)?;
        let (descriptor, rest) = split_padded(rest, descriptor_len)?;
        if kind == NOTE_PHYS32_ENTRY && name == NOTE_NAME {
            // Linux writes 4 or 8 bytes, by the word size of the kernel; the entry has 32 bits.
            let entry = descriptor.first_chunk::<4>()?;
            return Some(u64::from(u32::from_le_bytes(*entry)));
        }
        notes = rest;
    }
}

/// The first `len` bytes, and what follows them at the next multiple of 4.
fn split_padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let (head, _) = bytes.split_at_checked(len)?;
    Some((head, bytes.get(len.checked_next_multiple_of(4)?..).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
