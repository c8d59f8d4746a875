//! The one way from a chain of the guest to its bytes. A chain is walked once: what was checked is
//! what is used, whatever the guest writes to its descriptors meanwhile. All lengths are bounded,
//! all memory is the guest's, and what a driver may not do makes the chain malformed.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

use super::Chain;
use crate::Memory;

/// What a device takes of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors, those of an indirect table among them.
    pub descriptors: usize,
    /// Bytes for the device to read.
    pub readable: u32,
    /// Bytes for the device to write.
    pub writable: u32,
}

/// Why a chain is none. It is to be given back with length 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// It has no descriptor, leaves its table, is a loop, has an indirect table that is none, or is
    /// longer than 2^32 bytes. virtio 1.2 §2.7.5.
    #[error("descriptor chain is cut off")]
    Broken,
    /// More descriptors than the device takes.
    #[error("descriptor chain is too long")]
    TooLong,
    /// More bytes than the device takes.
    #[error("descriptor chain holds too much")]
    TooLarge,
    /// A descriptor to read comes after one to write. virtio 1.2 §2.7.4.2.
    #[error("descriptor chain is out of order")]
    Order,
    /// A buffer is not in guest memory, or reaches beyond it.
    #[error("descriptor chain leaves guest memory")]
    Bounds,
}

/// One chain, checked.
pub struct Request<'a> {
    /// What the guest wrote.
    pub reader: Reader<'a>,
    /// What the device may write.
    pub writer: Writer<'a>,
}

impl<'a> Request<'a> {
    /// Checks a chain.
    ///
    /// # Errors
    /// [`ChainError`]: it is not for the device, or for none.
    pub fn split(chain: Chain<'_>, memory: &'a Memory, limits: Limits) -> Result<Self, ChainError> {
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        let mut writes = false;
        let mut last: Option<Descriptor> = None;
        for (at, descriptor) in chain.enumerate() {
            if at == limits.descriptors {
                return Err(ChainError::TooLong);
            }
            if descriptor.is_write_only() {
                writes = true;
                writable.add(memory, &descriptor, Permissions::Write, limits.writable)?;
            } else if writes {
                return Err(ChainError::Order);
            } else {
                readable.add(memory, &descriptor, Permissions::Read, limits.readable)?;
            }
            last = Some(descriptor);
        }
        // Crate virtio-queue ends a chain without a word where the next descriptor makes no sense.
        if last.is_none_or(|descriptor| descriptor.has_next()) {
            return Err(ChainError::Broken);
        }
        Ok(Self { reader: Reader(readable), writer: Writer(writable) })
    }
}

/// Pieces of guest memory, from the first byte that is not done with.
#[derive(Debug, Clone, Default)]
struct Buffers<'a> {
    slices: VecDeque<VolatileSlice<'a>>,
    left: usize,
    done: usize,
}

impl<'a> Buffers<'a> {
    fn add(
        &mut self,
        memory: &'a Memory,
        descriptor: &Descriptor,
        access: Permissions,
        limit: u32,
    ) -> Result<(), ChainError> {
        let len = usize::try_from(descriptor.len()).map_err(|_| ChainError::TooLarge)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let left = self.left.checked_add(len).filter(|&left| left <= limit);
        self.left = left.ok_or(ChainError::TooLarge)?;
        let slices = memory.get_slices(descriptor.addr(), len, access);
        for slice in slices.map_err(|_| ChainError::Bounds)? {
            self.slices.push_back(slice.map_err(|_| ChainError::Bounds)?);
        }
        Ok(())
    }

    /// Hands pieces of at most `len` bytes to `with`, in order, and moves on behind them.
    fn consume(&mut self, mut len: usize, mut with: impl FnMut(&VolatileSlice<'a>)) -> usize {
        let mut consumed = 0;
        while len > 0 {
            let Some(slice) = self.slices.pop_front() else { break };
            let taken = len.min(slice.len());
            // Both cannot fail: taken is at most the slice's length.
            let (Ok(now), Ok(later)) = (slice.subslice(0, taken), slice.offset(taken)) else {
                break;
            };
            with(&now);
            if !later.is_empty() {
                self.slices.push_front(later);
            }
            len -= taken;
            consumed += taken;
        }
        self.left -= consumed;
        self.done += consumed;
        consumed
    }
}

/// Reads what the guest wrote, from first to last.
#[derive(Debug, Clone)]
pub struct Reader<'a>(Buffers<'a>);

impl Reader<'_> {
    /// Bytes that are left.
    #[must_use]
    pub fn available_bytes(&self) -> usize {
        self.0.left
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut at = 0;
        Ok(self.0.consume(buffer.len(), |slice| {
            at += slice.copy_to(&mut buffer[at..]);
        }))
    }
}

/// Writes to the guest, from first to last.
#[derive(Debug, Clone)]
pub struct Writer<'a>(Buffers<'a>);

impl Writer<'_> {
    /// Bytes that there is room for.
    #[must_use]
    pub fn available_bytes(&self) -> usize {
        self.0.left
    }

    /// Bytes that were written, as the used ring wants them.
    #[must_use]
    pub fn written(&self) -> u32 {
        // Limits are 32 bits wide.
        u32::try_from(self.0.done).unwrap_or(u32::MAX)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        Ok(self.0.consume(bytes.len(), |slice| {
            slice.copy_from(&bytes[at..]);
            at += slice.len();
        }))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
