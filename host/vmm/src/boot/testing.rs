//! ELF files and memory for the tests of this room.

use std::fs::File;
use std::io::Write;

use crate::memory::{Ram, Size};

/// Writes an ELF file, field by field: a second opinion on where they are.
pub struct ElfFile {
    pub magic: [u8; 4],
    pub class: u8,
    pub data: u8,
    pub kind: u16,
    pub machine: u16,
    pub entry: u64,
    pub header_offset: u64,
    pub header_len: u16,
    /// `None`: as many as there are.
    pub header_count: Option<u16>,
    pub segments: Vec<Load>,
    pub notes: Vec<u8>,
}

/// A program header with its content.
#[derive(Clone)]
pub struct Load {
    pub addr: u64,
    pub memory_len: u64,
    /// `None`: that of the content.
    pub file_len: Option<u64>,
    pub content: Vec<u8>,
}

pub const KERNEL_ADDR: u64 = 0x20_0000;

impl Default for ElfFile {
    fn default() -> Self {
        Self {
            magic: *b"\x7fELF",
            class: 2,
            data: 1,
            kind: 2,
            machine: 62,
            entry: KERNEL_ADDR + 0x10,
            header_offset: 64,
            header_len: 56,
            header_count: None,
            segments: vec![load(KERNEL_ADDR, 0x3000, b"the code of a kernel")],
            notes: Vec::new(),
        }
    }
}

pub fn load(addr: u64, memory_len: u64, content: &[u8]) -> Load {
    Load { addr, memory_len, file_len: None, content: content.to_vec() }
}

fn small(len: usize) -> u32 {
    u32::try_from(len).unwrap()
}

pub fn note(name: &[u8], kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for value in [small(name.len()), small(descriptor.len()), kind] {
        note.extend(value.to_le_bytes());
    }
    for field in [name, descriptor] {
        note.extend(field);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// The note of a PVH entry, behind another one as Linux has it.
pub fn pvh_notes(entry: u64) -> Vec<u8> {
    [note(b"GNU\0", 3, &[7; 20]), note(b"Xen\0", 18, &entry.to_le_bytes())].concat()
}

impl ElfFile {
    pub fn bytes(&self) -> Vec<u8> {
        let count = self.segments.len() + usize::from(!self.notes.is_empty());
        let mut file = Vec::new();
        file.extend(self.magic);
        file.extend([self.class, self.data, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for value in [self.entry, self.header_offset, 0] {
            file.extend(value.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        let header_count = self.header_count.unwrap_or(u16::try_from(count).unwrap());
        for value in [64, self.header_len, header_count, 64, 0, 0] {
            file.extend(value.to_le_bytes());
        }
        let mut contents: Vec<u8> = Vec::new();
        let start = 64 + 56 * count as u64;
        let mut header = |kind: u32, addr: u64, len: u64, file_len: u64, content: &[u8]| {
            file.extend(kind.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            let offset = start + contents.len() as u64;
            for value in [offset, !addr, addr, file_len, len, 4096] {
                file.extend(value.to_le_bytes());
            }
            contents.extend(content);
        };
        for Load { addr, memory_len, file_len, content } in &self.segments {
            let file_len = file_len.unwrap_or(content.len() as u64);
            header(1, *addr, *memory_len, file_len, content);
        }
        if !self.notes.is_empty() {
            let len = self.notes.len() as u64;
            header(4, 0, len, len, &self.notes);
        }
        file.extend(contents);
        file
    }

    pub fn file(&self) -> File {
        file(&self.bytes())
    }
}

pub fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

pub fn ram(mib: u32, hotplug_mib: u32) -> Ram {
    Ram::create_on_host(Size { mib, hotplug_mib }, u64::from(mib) + u64::from(hotplug_mib)).unwrap()
}
