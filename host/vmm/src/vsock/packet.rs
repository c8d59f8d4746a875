//! The packet header, `struct virtio_vsock_hdr` of virtio 1.2 §5.10.6. Checks shapes, keeps no
//! state.

use std::io::{self, Read};

/// Bytes of a header on the wire.
pub const HEADER_LEN: usize = 44;
/// The most payload of one packet, either way.
pub const MAX_PAYLOAD_LEN: u32 = 64 << 10;
/// `VIRTIO_VSOCK_TYPE_STREAM`, virtio 1.2 §5.10.6.
pub const TYPE_STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of the flag reads no more. §5.10.6.6.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of the flag writes no more. §5.10.6.6.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both directions.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet asks for. virtio 1.2 §5.10.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Open a connection.
    Request,
    /// The connection is open.
    Response,
    /// There is no such connection, or no longer.
    Reset,
    /// One or both directions end, see the flags.
    Shutdown,
    /// Payload.
    Data,
    /// How much the sender can take.
    CreditUpdate,
    /// Ask for a [`Op::CreditUpdate`].
    CreditRequest,
}

impl Op {
    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }

    /// `None` for 0 (`VIRTIO_VSOCK_OP_INVALID`) and for what the specification does not name.
    #[must_use]
    pub const fn from_wire(op: u16) -> Option<Self> {
        Some(match op {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A header as it is on the wire. `op` and `kind` may hold anything that a guest wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Address of the sender.
    pub src_cid: u64,
    /// Address of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of payload that follow.
    pub len: u32,
    /// Socket type, [`TYPE_STREAM`].
    pub kind: u16,
    /// See [`Op`].
    pub op: u16,
    /// Of the operation.
    pub flags: u32,
    /// Bytes that the sender holds for the connection.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken out of that buffer, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// The header as bytes, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// Reads a header. Every bit pattern is one.
    ///
    /// # Errors
    /// `UnexpectedEof` when `reader` holds fewer than [`HEADER_LEN`] bytes.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Self> {
        let mut fields = Fields(reader);
        Ok(Self {
            src_cid: u64::from_le_bytes(fields.take()?),
            dst_cid: u64::from_le_bytes(fields.take()?),
            src_port: u32::from_le_bytes(fields.take()?),
            dst_port: u32::from_le_bytes(fields.take()?),
            len: u32::from_le_bytes(fields.take()?),
            kind: u16::from_le_bytes(fields.take()?),
            op: u16::from_le_bytes(fields.take()?),
            flags: u32::from_le_bytes(fields.take()?),
            buf_alloc: u32::from_le_bytes(fields.take()?),
            fwd_cnt: u32::from_le_bytes(fields.take()?),
        })
    }
}

struct Fields<'a, R>(&'a mut R);

impl<R: Read> Fields<'_, R> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_wire() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x0102_0304,
            dst_port: 1024,
            len: 7,
            kind: TYPE_STREAM,
            op: Op::Data.to_wire(),
            flags: SHUTDOWN_BOTH,
            buf_alloc: 1 << 18,
            fwd_cnt: u32::MAX,
        };
        let bytes = header.to_bytes();
        assert_eq!(&bytes[16..20], &[4, 3, 2, 1]);
        assert_eq!(Header::read_from(&mut bytes.as_slice()).unwrap(), header);
    }

    #[test]
    fn short_header_is_an_error() {
        let error = Header::read_from(&mut [0; HEADER_LEN - 1].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn operations_that_the_specification_does_not_name_are_none() {
        assert_eq!(Op::from_wire(0), None);
        assert_eq!(Op::from_wire(8), None);
        for op in (1..8).filter_map(Op::from_wire) {
            assert_eq!(Op::from_wire(op.to_wire()), Some(op));
        }
    }
}
