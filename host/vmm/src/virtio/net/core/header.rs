//! What stands before each frame, virtio 1.2 §5.1.6, and which of it makes sense.

use super::Offloads;

/// Bytes of it, with the number of buffers, as VIRTIO_F_VERSION_1 has it.
pub const HEADER_LEN: usize = 12;

/// `flags`: the checksum is to be put in. virtio 1.2 §5.1.6.
pub const F_NEEDS_CSUM: u8 = 1;
/// `flags`: the checksum was checked. virtio 1.2 §5.1.6.
pub const F_DATA_VALID: u8 = 2;
/// `gso_type`: one segment. virtio 1.2 §5.1.6.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: segments of TCP over IPv4. virtio 1.2 §5.1.6.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: segments of TCP over IPv6. virtio 1.2 §5.1.6.
pub const GSO_TCPV6: u8 = 4;
/// The least payload of a segment that Linux makes. linux/net/tcp.h, TCP_MIN_GSO_SIZE. With less,
/// one packet of a guest could be 65,000 for the host's kernel.
pub const MIN_GSO_SIZE: u16 = 8;

/// The header says what was not agreed on, or what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read the header of a packet")]
pub struct Nonsense;

/// `struct virtio_net_hdr` without its number of buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// `F_…`
    pub flags: u8,
    /// `GSO_…`
    pub gso_type: u8,
    /// Bytes of all headers in the frame: a hint.
    pub hdr_len: u16,
    /// Bytes of payload of one segment.
    pub gso_size: u16,
    /// Where in the frame the checksum begins to count.
    pub csum_start: u16,
    /// Where it is put, from there.
    pub csum_offset: u16,
}

impl Header {
    /// The first bytes of a packet.
    #[must_use]
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// The header with a number of buffers.
    #[must_use]
    pub fn to_bytes(self, num_buffers: u16) -> [u8; HEADER_LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = num_buffers.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }

    /// The header for the host of a frame that the guest sent: of what the guest says, only what
    /// makes sense reaches the host's kernel. virtio 1.2 §5.1.6.2.
    ///
    /// # Errors
    /// [`Nonsense`]: the packet is to be dropped.
    pub fn sent(self, frame_len: usize, offloads: Offloads) -> Result<Self, Nonsense> {
        // Unknown flags are ignored, and what the guest says of checked checksums is none of ours.
        let needs_csum = self.flags & F_NEEDS_CSUM != 0;
        if needs_csum {
            let field = usize::from(self.csum_start) + usize::from(self.csum_offset);
            if !offloads.checksum || field + 2 > frame_len {
                return Err(Nonsense);
            }
        }
        let segments = match self.gso_type {
            GSO_NONE => false,
            GSO_TCPV4 if offloads.tso4 => true,
            GSO_TCPV6 if offloads.tso6 => true,
            _ => return Err(Nonsense),
        };
        if segments && (!needs_csum || self.gso_size < MIN_GSO_SIZE) {
            return Err(Nonsense);
        }
        // Fields without a meaning are zero.
        let if_csum = |field| if needs_csum { field } else { 0 };
        let if_segments = |field| if segments { field } else { 0 };
        let frame_len = u16::try_from(frame_len).unwrap_or(u16::MAX);
        Ok(Self {
            flags: self.flags & F_NEEDS_CSUM,
            gso_type: self.gso_type,
            hdr_len: if_segments(self.hdr_len.min(frame_len)),
            gso_size: if_segments(self.gso_size),
            csum_start: if_csum(self.csum_start),
            csum_offset: if_csum(self.csum_offset),
        })
    }

    /// The header for the guest of a frame that the host's kernel sent. What was agreed on with an
    /// earlier driver may still come out of the port.
    ///
    /// # Errors
    /// [`Nonsense`]: this driver cannot take the packet.
    pub fn received(self, offloads: Offloads) -> Result<Self, Nonsense> {
        let wanted = match self.gso_type {
            GSO_NONE => true,
            GSO_TCPV4 => offloads.tso4,
            GSO_TCPV6 => offloads.tso6,
            _ => false,
        };
        if offloads.checksum {
            return if wanted { Ok(self) } else { Err(Nonsense) };
        }
        if !wanted || self.flags & F_NEEDS_CSUM != 0 {
            return Err(Nonsense);
        }
        // Without GUEST_CSUM the flags are zero. virtio 1.2 §5.1.6.4.1.
        Ok(Self { flags: 0, ..self })
    }
}
