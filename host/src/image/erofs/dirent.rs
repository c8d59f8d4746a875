//! A folder's data: blocks of entries, each block sorted and complete in itself so that the
//! kernel finds a name by two binary searches. Pure.
//!
//! Source: Linux Documentation/filesystems/erofs.rst, "Directories".

use super::format::{self, DIRENT_SIZE};
use super::{BLOCK_SIZE, BLOCK_SIZE_U64};

/// An entry on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub struct Dirent<'a> {
    pub name: &'a [u8],
    pub nid: u64,
    pub file_type: u8,
}

/// Size of a folder's data in bytes, for the lengths of its sorted names.
pub fn data_size(name_lengths: impl Iterator<Item = usize>) -> u64 {
    let mut blocks = 0;
    let mut used = 0;
    for length in name_lengths {
        let entry = DIRENT_SIZE + length;
        if used + entry > BLOCK_SIZE {
            blocks += 1;
            used = 0;
        }
        used += entry;
    }
    blocks * BLOCK_SIZE_U64 + u64::try_from(used).unwrap_or(0)
}

/// The data for `entries`, which are sorted by their names' bytes.
pub fn write(entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let (block, after) = rest.split_at(entries_in_block(rest));
        out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);
        write_block(block, &mut out);
        rest = after;
    }
    out
}

fn entries_in_block(entries: &[Dirent<'_>]) -> usize {
    let mut used = 0;
    let fits = |entry: &&Dirent<'_>| {
        used += DIRENT_SIZE + entry.name.len();
        used <= BLOCK_SIZE
    };
    entries.iter().take_while(fits).count()
}

fn write_block(entries: &[Dirent<'_>], out: &mut Vec<u8>) {
    let mut name_offset = entries.len() * DIRENT_SIZE;
    for entry in entries {
        let offset = u16::try_from(name_offset).expect("a block's offsets are below 4096");
        out.extend(format::dirent(entry.nid, offset, entry.file_type));
        name_offset += entry.name.len();
    }
    for entry in entries {
        out.extend_from_slice(entry.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_announced_is_size_written() {
        for count in [1usize, 2, 100, 227, 228, 1000] {
            let names: Vec<String> = (0..count).map(|n| format!("{n:06}")).collect();
            let entries: Vec<Dirent<'_>> = names
                .iter()
                .map(|name| Dirent { name: name.as_bytes(), nid: 1, file_type: 1 })
                .collect();
            let data = write(&entries);
            let announced = data_size(names.iter().map(String::len));
            assert_eq!(u64::try_from(data.len()).unwrap(), announced);
        }
    }

    #[test]
    fn longest_names_leave_whole_blocks() {
        let names = [[b'a'; 255], [b'b'; 255]];
        let entries: Vec<Dirent<'_>> = names
            .iter()
            .cycle()
            .take(40)
            .map(|n| Dirent { name: n, nid: 2, file_type: 2 })
            .collect();
        let data = write(&entries);
        // 15 entries of 267 bytes to a block.
        assert_eq!(data.len(), 2 * 4096 + 10 * 267);
        assert_eq!(u16::from_le_bytes([data[8], data[9]]), 15 * 12);
    }
}
