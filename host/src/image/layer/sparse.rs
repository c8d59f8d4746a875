//! Sparse files: GNU tar's own form and its three forms in pax headers. A map that does not fit
//! the entry's data is refused.
//!
//! Source: GNU tar manual, "Storing Sparse Files".

use super::header::{Header, parse_number};
use super::pax;
use super::tar::{BLOCK, BLOCK_U64, Entry, Piece, TarError, TarInput, TarReader, bad, read_block};

/// Most pieces of a sparse file.
const MAX_SPARSE_PIECES: usize = 64 << 10;

impl<R: TarInput> TarReader<R> {
    /// GNU tar manual, "Old GNU Format": four pieces in the header, 21 in each block that follows.
    pub(super) fn old_gnu_sparse(
        &mut self,
        header: &Header,
        entry: &mut Entry,
    ) -> Result<(), TarError> {
        let mut pieces = Vec::new();
        read_sparse_table(&header.0[386..482], &mut pieces)?;
        let mut more = header.0[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            if !read_block(self.input(), &mut block)? {
                return Err(TarError::Truncated);
            }
            read_sparse_table(&block[..504], &mut pieces)?;
            more = block[504] != 0;
            if pieces.len() > MAX_SPARSE_PIECES {
                return Err(TarError::SparseMap { entry: entry.display_name() });
            }
        }
        let real_size = parse_number(&header.0[483..495]).ok_or(bad("realsize"))?;
        self.set_sparse(entry, real_size, pieces)
    }

    /// GNU tar manual, "PAX Format, Versions 0.0 and 0.1" and "Version 1.0".
    pub(super) fn pax_sparse(
        &mut self,
        sparse: pax::Sparse,
        entry: &mut Entry,
    ) -> Result<(), TarError> {
        let bad_map = |entry: &Entry| TarError::SparseMap { entry: entry.display_name() };
        let real_size = sparse.real_size.ok_or_else(|| bad_map(entry))?;
        if let Some(name) = sparse.name {
            entry.path = name;
        }
        let pieces = if sparse.map_in_data {
            self.sparse_map_in_data().map_err(|error| match error {
                TarError::Field { .. } => bad_map(entry),
                other => other,
            })?
        } else {
            sparse.pieces
        };
        self.set_sparse(entry, real_size, pieces)
    }

    /// Version 1.0: decimal numbers, one a line, padded to a block, in front of the data.
    fn sparse_map_in_data(&mut self) -> Result<Vec<Piece>, TarError> {
        let mut lines = SparseLines { block: [0; BLOCK], at: BLOCK };
        let count = lines.next_number(self)?;
        if usize::try_from(count).map_or(true, |count| count > MAX_SPARSE_PIECES) {
            return Err(bad("sparse map"));
        }
        (0..count).map(|_| Ok((lines.next_number(self)?, lines.next_number(self)?))).collect()
    }

    fn set_sparse(
        &self,
        entry: &mut Entry,
        real_size: u64,
        mut pieces: Vec<Piece>,
    ) -> Result<(), TarError> {
        // An empty last piece only marks the file's end.
        pieces.retain(|(_, length)| *length > 0);
        let mut end = 0;
        let mut data = 0u64;
        for (offset, length) in &pieces {
            let piece_end =
                offset.checked_add(*length).filter(|e| *offset >= end && *e <= real_size);
            let (Some(piece_end), Some(sum)) = (piece_end, data.checked_add(*length)) else {
                return Err(TarError::SparseMap { entry: entry.display_name() });
            };
            end = piece_end;
            data = sum;
        }
        if data != self.remaining() {
            return Err(TarError::SparseMap { entry: entry.display_name() });
        }
        entry.size = real_size;
        entry.sparse = Some(pieces);
        Ok(())
    }
}

struct SparseLines {
    block: [u8; BLOCK],
    at: usize,
}

impl SparseLines {
    fn next_number<R: TarInput>(&mut self, tar: &mut TarReader<R>) -> Result<u64, TarError> {
        let mut value = 0u64;
        for digits in 0..=20 {
            if self.at == BLOCK {
                self.fill(tar)?;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' if digits > 0 => return Ok(value),
                b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                        .ok_or(bad("sparse map"))?;
                }
                _ => break,
            }
        }
        Err(bad("sparse map"))
    }

    fn fill<R: TarInput>(&mut self, tar: &mut TarReader<R>) -> Result<(), TarError> {
        let mut filled = 0;
        tar.read_data(BLOCK_U64, |piece| {
            self.block[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
            Ok::<_, TarError>(())
        })?;
        self.at = 0;
        if filled == BLOCK { Ok(()) } else { Err(bad("sparse map")) }
    }
}

fn read_sparse_table(table: &[u8], pieces: &mut Vec<Piece>) -> Result<(), TarError> {
    for slot in table.chunks_exact(24) {
        if slot[0] == 0 {
            break;
        }
        let offset = parse_number(&slot[..12]).ok_or(bad("sparse offset"))?;
        let length = parse_number(&slot[12..]).ok_or(bad("sparse numbytes"))?;
        pieces.push((offset, length));
    }
    Ok(())
}
