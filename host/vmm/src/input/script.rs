//! Bytes as a sequence of numbers that ends. Knows no guest.

/// Numbers from bytes, little-endian; `None` at the end.
#[derive(Debug)]
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// From the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// As many bytes as there are, up to `len`.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        first
    }

    /// A number up to 2^20 that is often small, for lengths: the first byte says how many others
    /// there are.
    pub fn length(&mut self) -> Option<u32> {
        let first = self.u8()?;
        Some(match first {
            0..0xf0 => u32::from(first),
            0xf0..0xfc => u32::from(self.u16()?),
            _ => self.u32()?,
        })
    }

    /// An address that is often in the first 4 MiB, where the rings and buffers of tests are.
    pub fn address(&mut self) -> Option<u64> {
        let word = self.u32()?;
        Some(match word >> 30 {
            0 => u64::from(word & 0x3f_ffff),
            1 => u64::from(word & 0x3f_ffff) & !0xf,
            // Around the end of memory.
            2 => (16 << 20) - 0x80 + u64::from(word & 0xff),
            _ => u64::from(word) << 32 | u64::from(word),
        })
    }
}
