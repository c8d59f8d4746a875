//! Which blocks of the hot-plug region are plugged, and how many the host wants to be.
//!
//! ```text
//! Empty --plug--> Plugged --unplug--> Leaving --the host takes its pages--> Empty
//!                    '<-----plug---------'
//! ```
//!
//! A block that is leaving is unplugged for the guest; to take its pages takes time, and is done
//! bit by bit.

use std::ops::Range;

/// Bytes of a block, and its alignment: a large page.
pub const BLOCK_LEN: u64 = 2 << 20;

/// What blocks are. virtio 1.2 §5.15.6.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All of them are plugged.
    Plugged,
    /// None is.
    Unplugged,
    /// Some are.
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Empty,
    Plugged,
    Leaving,
}

/// The blocks of the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    addr: u64,
    blocks: Vec<Block>,
    requested_len: u64,
    usable_len: u64,
}

impl Blocks {
    /// A region without a plugged block, of `len` bytes, from which a part of a block at the end is
    /// left out. Nothing of it can be used.
    #[must_use]
    pub fn new(addr: u64, len: u64) -> Self {
        let count = usize::try_from(len / BLOCK_LEN).unwrap_or_default();
        Self { addr, blocks: vec![Block::Empty; count], requested_len: 0, usable_len: 0 }
    }

    /// The region's first byte.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// The region's bytes.
    #[must_use]
    pub fn region_len(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_LEN
    }

    /// Bytes that the host wants to be plugged.
    #[must_use]
    pub fn requested_len(&self) -> u64 {
        self.requested_len
    }

    /// Bytes that are plugged.
    #[must_use]
    pub fn plugged_len(&self) -> u64 {
        self.blocks.iter().filter(|&&block| block == Block::Plugged).count() as u64 * BLOCK_LEN
    }

    /// Bytes from the region's start on that may be plugged: memory is there.
    #[must_use]
    pub fn usable_len(&self) -> u64 {
        self.usable_len
    }

    /// So many bytes may be plugged from now on, of the region's.
    pub fn set_usable_len(&mut self, len: u64) {
        self.usable_len = len.min(self.region_len());
    }

    /// Bytes from the region's start on that must be there: what the host wants to be plugged, and
    /// whatever is plugged or leaving.
    #[must_use]
    pub fn needed_len(&self) -> u64 {
        let last = self.blocks.iter().rposition(|&block| block != Block::Empty);
        let kept = last.map_or(0, |last| (last as u64 + 1) * BLOCK_LEN);
        self.requested_len.max(kept)
    }

    /// Wants so many bytes to be plugged.
    pub fn request(&mut self, len: u64) {
        self.requested_len = len;
    }

    /// The blocks from `addr` on, if `count` is not 0 and all of them are in the region.
    #[must_use]
    pub fn range(&self, addr: u64, count: u16) -> Option<Range<usize>> {
        let offset =
            addr.checked_sub(self.addr).filter(|offset| offset.is_multiple_of(BLOCK_LEN))?;
        let start = usize::try_from(offset / BLOCK_LEN).ok()?;
        let end = start.checked_add(usize::from(count))?;
        (start < end && end <= self.blocks.len()).then_some(start..end)
    }

    /// Every block.
    #[must_use]
    pub fn all(&self) -> Range<usize> {
        0..self.blocks.len()
    }

    /// Guest address and bytes of blocks.
    #[must_use]
    pub fn place(&self, range: &Range<usize>) -> (u64, u64) {
        (self.addr + range.start as u64 * BLOCK_LEN, range.len() as u64 * BLOCK_LEN)
    }

    /// What they are.
    #[must_use]
    pub fn state(&self, range: &Range<usize>) -> State {
        let blocks = self.blocks.get(range.clone()).unwrap_or_default();
        let plugged = blocks.iter().filter(|&&block| block == Block::Plugged).count();
        match plugged {
            0 => State::Unplugged,
            _ if plugged == blocks.len() => State::Plugged,
            _ => State::Mixed,
        }
    }

    /// Plugs them.
    pub fn plug(&mut self, range: &Range<usize>) {
        self.blocks.get_mut(range.clone()).unwrap_or_default().fill(Block::Plugged);
    }

    /// Unplugs those of them that are plugged.
    pub fn unplug(&mut self, range: &Range<usize>) {
        for block in self.blocks.get_mut(range.clone()).unwrap_or_default() {
            if *block == Block::Plugged {
                *block = Block::Leaving;
            }
        }
    }

    /// The first blocks that are leaving, neighbours, at most `count`.
    #[must_use]
    pub fn leaving(&self, count: usize) -> Option<Range<usize>> {
        let start = self.blocks.iter().position(|&block| block == Block::Leaving)?;
        let run = self.blocks.iter().skip(start).take(count);
        Some(start..start + run.take_while(|&&block| block == Block::Leaving).count())
    }

    /// The host has taken the pages of blocks that were leaving.
    pub fn left(&mut self, range: &Range<usize>) {
        self.blocks.get_mut(range.clone()).unwrap_or_default().fill(Block::Empty);
    }
}
