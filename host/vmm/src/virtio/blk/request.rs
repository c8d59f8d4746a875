//! What a chain of descriptors asks of a disk. Reads guest memory and nothing else.
//!
//! ```text
//! readable: header (16 bytes) | data to write, ranges        virtio 1.2 §5.2.6
//! writable: data that is read | status (1 byte)
//! ```
//!
//! How these are cut into descriptors is the driver's affair. virtio 1.2 §2.7.4. A request outlives
//! the look at its chain, so it has checked addresses, where other devices have readers and
//! writers; and what is wrong with it is told in its status byte where it has one.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};

use crate::Memory;

/// Unit of capacity and of addresses. virtio 1.2 §5.2.4.
pub const SECTOR_LEN: u64 = 512;
/// VIRTIO_BLK_F_SEG_MAX: pieces of data of one request.
pub const SEG_MAX: u32 = 126;
/// VIRTIO_BLK_F_SIZE_MAX: bytes of one piece.
pub const SIZE_MAX: u32 = 64 << 10;
/// Data of one request, however it is cut: a driver that knows nothing of the two above is held to
/// what one that does could ask for. Bounds how long a reset can take.
pub const MAX_DATA_LEN: u64 = SEG_MAX as u64 * SIZE_MAX as u64;
/// Descriptors of one request: data, header and status.
const MAX_DESCRIPTORS: usize = SEG_MAX as usize + 2;
/// Ranges of one request to discard.
pub const MAX_DISCARD_SEG: u32 = 16;
/// Sectors of one range to discard: 2 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 4 << 20;
/// Ranges of one request to write zeroes.
pub const MAX_WRITE_ZEROES_SEG: u32 = 1;
/// Sectors of a range of zeroes: 64 MiB, for some files have to be written for them.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 128 << 10;
/// Bytes of a serial number. virtio 1.2 §5.2.6.
pub const ID_LEN: usize = 20;

/// virtio 1.2 §5.2.6, struct virtio_blk_req up to its data.
const HEADER_LEN: usize = 16;
/// virtio 1.2 §5.2.6, struct virtio_blk_discard_write_zeroes.
const RANGE_LEN: usize = 16;
/// Of its flags.
const FLAG_UNMAP: u32 = 1;

/// Request types. virtio 1.2 §5.2.6.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// What the status byte says. virtio 1.2 §5.2.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// VIRTIO_BLK_S_OK
    Done = 0,
    /// VIRTIO_BLK_S_IOERR
    IoError = 1,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported = 2,
}

/// A piece of guest memory; it lies in memory, and is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub addr: GuestAddress,
    /// Bytes.
    pub len: u32,
}

/// A piece of the disk; it lies within the capacity, and is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub len: u64,
    /// The space of it may be given up.
    pub unmap: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Disk to memory.
    Read {
        /// On the disk, in bytes.
        offset: u64,
        /// Whole sectors.
        data: Vec<Segment>,
    },
    /// Memory to disk.
    Write {
        /// On the disk, in bytes.
        offset: u64,
        /// Whole sectors.
        data: Vec<Segment>,
    },
    /// Everything written is to reach stable storage.
    Flush,
    /// The guest needs these no longer.
    Discard {
        /// At most [`MAX_DISCARD_SEG`].
        ranges: Vec<Range>,
    },
    /// These are to read as zeroes.
    WriteZeroes {
        /// At most [`MAX_WRITE_ZEROES_SEG`].
        ranges: Vec<Range>,
    },
    /// The serial number.
    GetId {
        /// At least [`ID_LEN`] bytes.
        data: Vec<Segment>,
    },
}

impl Operation {
    /// Bytes of the disk that it moves, or may have to write.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { data, .. } | Self::Write { data, .. } => total(data),
            Self::WriteZeroes { ranges } => ranges.iter().map(|range| range.len).sum(),
            Self::Flush | Self::Discard { .. } | Self::GetId { .. } => 0,
        }
    }
}

/// A request that can be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub operation: Operation,
    /// Where the status byte goes.
    pub status: GuestAddress,
}

/// Why a chain is no request that can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The chain goes on where nothing is, or in a circle.
    #[error("the chain has no end")]
    Cut,
    /// More than header, status and [`SEG_MAX`] pieces.
    #[error("the chain is too long")]
    Descriptors,
    /// What the device reads has to come first. virtio 1.2 §2.7.4.2.
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// A descriptor points to what is no memory.
    #[error("a descriptor lies outside of memory")]
    Memory,
    /// Nothing that can be written.
    #[error("no room for the status")]
    NoStatus,
    /// Less than a header.
    #[error("the header is cut short")]
    Header,
    /// Data that the type of request does not have, or not so much or so little of it.
    #[error("a length that the request cannot have")]
    Length,
    /// Beyond the end of the disk.
    #[error("beyond the capacity")]
    Capacity,
    /// A write, on a disk that may only be read.
    #[error("the disk is read-only")]
    ReadOnly,
    /// A flag of a range that the request does not have.
    #[error("an unknown flag")]
    Flags,
    /// A type that is not offered.
    #[error("an unknown type")]
    Kind,
}

/// A chain that is given back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// Where its status byte would be, if it has one.
    pub status: Option<GuestAddress>,
}

impl Refused {
    /// What the driver is told.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match self.reason {
            Reason::Flags | Reason::Kind => Answer::Unsupported,
            _ => Answer::IoError,
        }
    }
}

/// What of a disk decides about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Capacity.
    pub sectors: u64,
    /// Nothing may be changed.
    pub read_only: bool,
}

/// Reads one chain.
///
/// # Errors
/// [`Refused`]: the guest gets it back.
pub fn parse(
    chain: impl Iterator<Item = Descriptor>,
    memory: &Memory,
    shape: &Shape,
) -> Result<Request, Refused> {
    let (mut parts, flaw) = Parts::collect(chain, memory);
    let status = parts.take_status();
    let refuse = |reason| Refused { reason, status };
    if let Some(reason) = flaw {
        return Err(refuse(reason));
    }
    let status = status.ok_or_else(|| refuse(Reason::NoStatus))?;
    let operation = parts.operation(memory, shape).map_err(refuse)?;
    Ok(Request { operation, status })
}

/// A chain in its two halves.
#[derive(Debug, Default)]
struct Parts {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Parts {
    /// What is found up to the first flaw, and the flaw.
    fn collect(chain: impl Iterator<Item = Descriptor>, memory: &Memory) -> (Self, Option<Reason>) {
        let mut parts = Self::default();
        let mut flaw = None;
        let mut ended = false;
        for (index, descriptor) in chain.enumerate() {
            if index == MAX_DESCRIPTORS {
                return (Self::default(), Some(Reason::Descriptors));
            }
            ended = !descriptor.has_next();
            let segment = Segment { addr: descriptor.addr(), len: descriptor.len() };
            if segment.len == 0 {
                continue;
            }
            let is_memory = segment.addr.checked_add(u64::from(segment.len)).is_some()
                && memory.check_range(segment.addr, segment.len as usize, Permissions::ReadWrite);
            if !is_memory {
                flaw = flaw.or(Some(Reason::Memory));
            } else if descriptor.is_write_only() {
                parts.writable.push(segment);
            } else if parts.writable.is_empty() {
                parts.readable.push(segment);
            } else {
                flaw = flaw.or(Some(Reason::Order));
            }
        }
        // The last descriptor of a chain that is cut is not the driver's last.
        if !ended {
            return (Self::default(), Some(Reason::Cut));
        }
        (parts, flaw)
    }

    /// The last byte that can be written.
    fn take_status(&mut self) -> Option<GuestAddress> {
        let last = self.writable.last_mut()?;
        last.len -= 1;
        let status = last.addr.unchecked_add(u64::from(last.len));
        if last.len == 0 {
            self.writable.pop();
        }
        Some(status)
    }

    fn operation(mut self, memory: &Memory, shape: &Shape) -> Result<Operation, Reason> {
        let header = self.take_readable::<HEADER_LEN>(memory).ok_or(Reason::Header)?;
        let kind = number_u32(&header, 0);
        let sector = number_u64(&header, 8);
        let writes = matches!(kind, kind::OUT | kind::DISCARD | kind::WRITE_ZEROES);
        if writes && shape.read_only {
            return Err(Reason::ReadOnly);
        }
        let reads = matches!(kind, kind::IN | kind::GET_ID);
        if (!self.readable.is_empty() && !writes) || (!self.writable.is_empty() && !reads) {
            // A type that is not known may have any data.
            return Err(if is_known(kind) { Reason::Length } else { Reason::Kind });
        }
        match kind {
            kind::IN => {
                let offset = shape.place(sector, total(&self.writable))?;
                Ok(Operation::Read { offset, data: self.writable })
            }
            kind::OUT => {
                let offset = shape.place(sector, total(&self.readable))?;
                Ok(Operation::Write { offset, data: self.readable })
            }
            kind::FLUSH => Ok(Operation::Flush),
            kind::GET_ID if total(&self.writable) < ID_LEN as u64 => Err(Reason::Length),
            kind::GET_ID => Ok(Operation::GetId { data: self.writable }),
            kind::DISCARD => {
                let most = (MAX_DISCARD_SEG, MAX_DISCARD_SECTORS);
                Ok(Operation::Discard { ranges: self.ranges(memory, shape, most, 0)? })
            }
            kind::WRITE_ZEROES => {
                let most = (MAX_WRITE_ZEROES_SEG, MAX_WRITE_ZEROES_SECTORS);
                Ok(Operation::WriteZeroes { ranges: self.ranges(memory, shape, most, FLAG_UNMAP)? })
            }
            _ => Err(Reason::Kind),
        }
    }

    fn ranges(
        mut self,
        memory: &Memory,
        shape: &Shape,
        (most, most_sectors): (u32, u32),
        flags_known: u32,
    ) -> Result<Vec<Range>, Reason> {
        let len = total(&self.readable);
        let count = len / RANGE_LEN as u64;
        if !len.is_multiple_of(RANGE_LEN as u64) || count == 0 || count > u64::from(most) {
            return Err(Reason::Length);
        }
        let mut ranges = Vec::new();
        while let Some(bytes) = self.take_readable::<RANGE_LEN>(memory) {
            let sectors = number_u32(&bytes, 8);
            let flags = number_u32(&bytes, 12);
            // virtio 1.2 §5.2.6.2: unknown flags, and unmap of a discard, are not supported.
            if flags & !flags_known != 0 {
                return Err(Reason::Flags);
            }
            if sectors == 0 || sectors > most_sectors {
                return Err(Reason::Length);
            }
            let len = u64::from(sectors) * SECTOR_LEN;
            let offset = shape.within(number_u64(&bytes, 0), len)?;
            ranges.push(Range { offset, len, unmap: flags & FLAG_UNMAP != 0 });
        }
        Ok(ranges)
    }

    /// The next `LEN` bytes of what can be read; `None` if there are not so many.
    fn take_readable<const LEN: usize>(&mut self, memory: &Memory) -> Option<[u8; LEN]> {
        let mut bytes = [0; LEN];
        let mut filled = 0;
        let mut used_up = 0;
        for segment in &mut self.readable {
            let part = (LEN - filled).min(segment.len as usize);
            memory.read_slice(&mut bytes[filled..filled + part], segment.addr).ok()?;
            filled += part;
            segment.addr = segment.addr.unchecked_add(part as u64);
            segment.len -= u32::try_from(part).ok()?;
            if segment.len > 0 {
                break;
            }
            used_up += 1;
            if filled == LEN {
                break;
            }
        }
        self.readable.drain(..used_up);
        (filled == LEN).then_some(bytes)
    }
}

impl Shape {
    /// Where on the disk data goes that a request moves.
    fn place(&self, sector: u64, len: u64) -> Result<u64, Reason> {
        if len == 0 || !len.is_multiple_of(SECTOR_LEN) || len > MAX_DATA_LEN {
            return Err(Reason::Length);
        }
        self.within(sector, len)
    }

    fn within(&self, sector: u64, len: u64) -> Result<u64, Reason> {
        let end = sector.checked_add(len / SECTOR_LEN).ok_or(Reason::Capacity)?;
        if end > self.sectors {
            return Err(Reason::Capacity);
        }
        sector.checked_mul(SECTOR_LEN).ok_or(Reason::Capacity)
    }
}

fn is_known(kind: u32) -> bool {
    matches!(
        kind,
        kind::IN | kind::OUT | kind::FLUSH | kind::GET_ID | kind::DISCARD | kind::WRITE_ZEROES
    )
}

/// Bytes of some pieces: few, of 32 bits each.
fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

fn number_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn number_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

#[cfg(test)]
mod tests;
