//! Which blocks of the hot-plug region are plugged, and how many the host wants to be.

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

/// The blocks of the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    addr: u64,
    plugged: Vec<bool>,
    requested_len: u64,
}

impl Blocks {
    /// A region without a plugged block, of `len` bytes, from which a part of a block at the end is
    /// left out.
    #[must_use]
    pub fn new(addr: u64, len: u64) -> Self {
        let count = usize::try_from(len / BLOCK_LEN).unwrap_or_default();
        Self { addr, plugged: vec![false; count], requested_len: 0 }
    }

    /// The region's first byte.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// The region's bytes.
    #[must_use]
    pub fn region_len(&self) -> u64 {
        self.plugged.len() as u64 * BLOCK_LEN
    }

    /// Bytes that the host wants to be plugged.
    #[must_use]
    pub fn requested_len(&self) -> u64 {
        self.requested_len
    }

    /// Bytes that are plugged.
    #[must_use]
    pub fn plugged_len(&self) -> u64 {
        self.plugged.iter().filter(|&&plugged| plugged).count() as u64 * BLOCK_LEN
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
        (start < end && end <= self.plugged.len()).then_some(start..end)
    }

    /// Every block.
    #[must_use]
    pub fn all(&self) -> Range<usize> {
        0..self.plugged.len()
    }

    /// Guest address and bytes of blocks.
    #[must_use]
    pub fn place(&self, range: &Range<usize>) -> (u64, u64) {
        (self.addr + range.start as u64 * BLOCK_LEN, range.len() as u64 * BLOCK_LEN)
    }

    /// What they are.
    #[must_use]
    pub fn state(&self, range: &Range<usize>) -> State {
        let blocks = self.plugged.get(range.clone()).unwrap_or_default();
        match (blocks.contains(&true), blocks.contains(&false)) {
            (true, false) => State::Plugged,
            (true, true) => State::Mixed,
            (false, _) => State::Unplugged,
        }
    }

    /// Makes them plugged or not.
    pub fn set(&mut self, range: &Range<usize>, plugged: bool) {
        if let Some(blocks) = self.plugged.get_mut(range.clone()) {
            blocks.fill(plugged);
        }
    }
}
