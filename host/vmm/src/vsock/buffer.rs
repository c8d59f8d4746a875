//! A ring of bytes with a fixed capacity. Allocates when first used; knows no packets.

use std::io::{self, Read, Write};

/// Bytes on their way, first in, first out.
#[derive(Debug)]
pub struct ByteRing {
    bytes: Box<[u8]>,
    capacity: usize,
    head: usize,
    len: usize,
}

impl ByteRing {
    /// An empty ring that holds up to `capacity` bytes and allocates none yet.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { bytes: Box::default(), capacity, head: 0, len: 0 }
    }

    /// Bytes in the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is in the ring.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit beside those in the ring.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Drops every byte, and the memory too.
    pub fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    /// Reads once from `reader` into the ring. `Ok(0)` is the end of `reader`, or no room.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn fill_from(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        let count = reader.read(self.spare())?;
        self.len += count;
        Ok(count)
    }

    /// Reads exactly `count` bytes into the ring.
    ///
    /// # Errors
    /// `InvalidInput` when `count` does not fit, `UnexpectedEof` when `reader` holds fewer; bytes
    /// read until then stay in the ring.
    pub fn fill_exact(&mut self, reader: &mut impl Read, count: usize) -> io::Result<()> {
        if count > self.room() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut left = count;
        while left > 0 {
            let spare = self.spare();
            let part = spare.len().min(left);
            reader.read_exact(&mut spare[..part])?;
            self.len += part;
            left -= part;
        }
        Ok(())
    }

    /// Writes once from the ring into `writer` and returns how many bytes left the ring.
    ///
    /// # Errors
    /// Those of `writer`.
    pub fn drain_to(&mut self, writer: &mut impl Write) -> io::Result<usize> {
        let count = writer.write(self.front(self.len))?;
        self.consume(count.min(self.len));
        Ok(count)
    }

    /// Writes exactly `count` bytes.
    ///
    /// # Errors
    /// Those of `writer`, and `InvalidInput` when the ring holds fewer than `count`.
    pub fn drain_exact(&mut self, writer: &mut impl Write, count: usize) -> io::Result<()> {
        if count > self.len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut left = count;
        while left > 0 {
            let part = self.front(left);
            let written = part.len();
            writer.write_all(part)?;
            self.consume(written);
            left -= written;
        }
        Ok(())
    }

    /// The first bytes that lie in one piece, `limit` at most.
    fn front(&self, limit: usize) -> &[u8] {
        let end = (self.head + self.len.min(limit)).min(self.bytes.len());
        &self.bytes[self.head..end]
    }

    /// Free bytes behind the last one that lie in one piece.
    fn spare(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; self.capacity].into_boxed_slice();
        }
        let tail = self.head + self.len;
        if tail < self.capacity {
            &mut self.bytes[tail..]
        } else {
            &mut self.bytes[tail - self.capacity..self.head]
        }
    }

    fn consume(&mut self, count: usize) {
        self.len -= count;
        // An empty ring starts over: small traffic then touches few pages of it.
        self.head = if self.len == 0 { 0 } else { (self.head + count) % self.capacity };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ring_of_no_use_allocates_nothing() {
        let mut ring = ByteRing::new(1 << 30);
        assert_eq!(ring.bytes.len(), 0);
        assert_eq!(ring.drain_to(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn more_than_the_capacity_is_refused() {
        let mut ring = ByteRing::new(4);
        assert!(ring.fill_exact(&mut [0; 8].as_slice(), 5).is_err());
        ring.fill_exact(&mut [0; 8].as_slice(), 4).unwrap();
        assert_eq!(ring.fill_from(&mut [0; 8].as_slice()).unwrap(), 0);
        assert!(ring.drain_exact(&mut Vec::new(), 5).is_err());
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_in_which_they_came(
            steps in proptest::collection::vec((0usize..40, 0usize..40), 1..60),
        ) {
            let mut ring = ByteRing::new(37);
            let (mut next_in, mut next_out) = (0u8, 0u8);
            for (fill, drain) in steps {
                let fill = fill.min(ring.room());
                let bytes: Vec<u8> = (0..fill).map(|_| { next_in = next_in.wrapping_add(1); next_in }).collect();
                ring.fill_exact(&mut bytes.as_slice(), fill).unwrap();
                let drain = drain.min(ring.len());
                let mut out = Vec::new();
                ring.drain_exact(&mut out, drain).unwrap();
                for byte in out {
                    next_out = next_out.wrapping_add(1);
                    prop_assert_eq!(byte, next_out);
                }
                prop_assert_eq!(ring.room() + ring.len(), 37);
            }
        }
    }
}
