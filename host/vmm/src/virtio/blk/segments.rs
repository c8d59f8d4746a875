//! Pieces of this process's memory that the kernel moves to and from a file. Keeps alive what it
//! points to.

use std::ptr;
use std::sync::Arc;

use vm_memory::{GuestMemory, Permissions};

use super::request::Segment;
use crate::Memory;

/// UIO_MAXIOV of <linux/uio.h>: pieces of one call.
const MAX_PIECES: usize = 1024;
/// Zeroes to write: in one page of the program's, and untouched.
static ZEROES: [u8; ZEROES_LEN] = [0; ZEROES_LEN];
const ZEROES_LEN: usize = 16 << 10;
/// Pieces of zeroes in one call: 1 MiB.
const ZEROES_PIECES: usize = 64;

/// Addresses and lengths for readv(2) and its like, what is left of them to be moved.
///
/// Every address points into a mapping of guest memory that `_memory` keeps, or into [`ZEROES`],
/// for as long as its length says. No reference to guest memory is ever made of it: the kernel
/// alone copies, and what the guest does to the bytes meanwhile is between the guest and itself.
#[derive(Debug)]
pub struct Segments {
    pieces: Vec<libc::iovec>,
    moved: usize,
    _memory: Option<Arc<Memory>>,
}

// SAFETY: the addresses are used by no thread but the one that owns the value, what they point to
// is shared or constant memory that lives as long as the value does, wherever that is.
#[allow(unsafe_code, reason = "addresses are not Send by themselves")]
unsafe impl Send for Segments {}

impl Segments {
    /// `None` if a part of it is no guest memory.
    #[must_use]
    pub fn of_guest(memory: &Arc<Memory>, segments: &[Segment]) -> Option<Self> {
        let mut pieces = Vec::with_capacity(segments.len());
        for segment in segments {
            // A piece may begin in one region of memory and end in the next.
            let slices = memory
                .get_slices(segment.addr, segment.len as usize, Permissions::ReadWrite)
                .ok()?;
            for slice in slices {
                let slice = slice.ok()?;
                let iov_base = slice.ptr_guard_mut().as_ptr().cast();
                pieces.push(libc::iovec { iov_base, iov_len: slice.len() });
            }
        }
        Some(Self { pieces, moved: 0, _memory: Some(Arc::clone(memory)) })
    }

    /// At most `len` bytes of zeroes; only to be written to a file.
    #[must_use]
    pub fn zeroes(len: u64) -> Self {
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        let mut pieces = Vec::new();
        while left > 0 && pieces.len() < ZEROES_PIECES {
            let iov_len = left.min(ZEROES_LEN);
            let iov_base = ptr::from_ref(&ZEROES).cast_mut().cast();
            pieces.push(libc::iovec { iov_base, iov_len });
            left -= iov_len;
        }
        Self { pieces, moved: 0, _memory: None }
    }

    /// What is left, as much of it as one call takes.
    #[must_use]
    pub fn pieces(&self) -> &[libc::iovec] {
        let end = self.pieces.len().min(self.moved + MAX_PIECES);
        &self.pieces[self.moved..end]
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moved == self.pieces.len()
    }

    /// So many bytes were moved.
    pub fn advance(&mut self, mut len: usize) {
        while let Some(piece) = self.pieces.get_mut(self.moved) {
            if len < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(len);
                piece.iov_len -= len;
                return;
            }
            len -= piece.iov_len;
            self.moved += 1;
        }
    }
}
