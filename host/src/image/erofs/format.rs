//! The on-disk structures, byte for byte, little endian. Pure.
//!
//! Source: fs/erofs/erofs_fs.h of Linux 6.1; names are the header's.

use super::BLOCK_SIZE;

/// `EROFS_SUPER_OFFSET`.
pub const SUPER_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`.
const COMPAT_SB_CHKSUM: u32 = 1;
/// `EROFS_FEATURE_COMPAT_MTIME`.
const COMPAT_MTIME: u32 = 2;
/// Binary logarithm of the block size (`blkszbits`).
const BLOCK_BITS: u8 = 12;

/// Unit of inode numbers: an inode starts at a multiple of this (`islotbits` is 5).
pub const SLOT_SIZE: usize = 32;
/// Size of `struct erofs_inode_compact`.
pub const COMPACT_SIZE: usize = 32;
/// Size of `struct erofs_inode_extended`.
pub const EXTENDED_SIZE: usize = 64;
/// Size of `struct erofs_dirent`.
pub const DIRENT_SIZE: usize = 12;
/// Size of `struct erofs_xattr_ibody_header`.
pub const XATTR_HEADER_SIZE: usize = 12;

/// `EROFS_INODE_FLAT_PLAIN`.
const FLAT_PLAIN: u16 = 0;
/// `EROFS_INODE_FLAT_INLINE`.
const FLAT_INLINE: u16 = 2;

/// File types of mode fields. Source: inode(7).
pub mod mode {
    pub const FIFO: u16 = 0o010_000;
    pub const CHAR_DEVICE: u16 = 0o020_000;
    pub const DIRECTORY: u16 = 0o040_000;
    pub const BLOCK_DEVICE: u16 = 0o060_000;
    pub const FILE: u16 = 0o100_000;
    pub const SYMLINK: u16 = 0o120_000;
}

/// File types of directory entries. Source: Linux include/linux/fs_types.h.
pub mod file_type {
    pub const FILE: u8 = 1;
    pub const DIRECTORY: u8 = 2;
    pub const CHAR_DEVICE: u8 = 3;
    pub const BLOCK_DEVICE: u8 = 4;
    pub const FIFO: u8 = 5;
    pub const SYMLINK: u8 = 7;
}

/// What goes into the superblock.
pub struct SuperBlock {
    pub root_nid: u16,
    pub inodes: u64,
    pub build_time_secs: u64,
    pub build_time_nanos: u32,
    pub blocks: u32,
    pub meta_block: u32,
    pub uuid: [u8; 16],
}

impl SuperBlock {
    /// Block 0, checksum included.
    pub fn block(&self) -> [u8; BLOCK_SIZE] {
        let mut out = Vec::with_capacity(128);
        out.extend(MAGIC.to_le_bytes());
        out.extend([0; 4]); // checksum, set below
        out.extend((COMPAT_SB_CHKSUM | COMPAT_MTIME).to_le_bytes());
        out.extend([BLOCK_BITS, 0]); // blkszbits, sb_extslots
        out.extend(self.root_nid.to_le_bytes());
        out.extend(self.inodes.to_le_bytes());
        out.extend(self.build_time_secs.to_le_bytes());
        out.extend(self.build_time_nanos.to_le_bytes());
        out.extend(self.blocks.to_le_bytes());
        out.extend(self.meta_block.to_le_bytes());
        out.extend([0; 4]); // xattr_blkaddr: no shared attributes
        out.extend(self.uuid);
        // volume_name, feature_incompat, u1, extra_devices, devt_slotoff, dirblkbits, reserved,
        // packed_nid, reserved2: all 0.
        let mut block = [0; BLOCK_SIZE];
        block[SUPER_OFFSET..SUPER_OFFSET + out.len()].copy_from_slice(&out);
        // The kernel's crc32c starts from ~0 and does not invert the end; the crate's does.
        let checksum = !crc32c::crc32c(&block[SUPER_OFFSET..]);
        block[SUPER_OFFSET + 4..SUPER_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// Where an inode's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// From this block on; any block when there is no data.
    Plain { block: u32 },
    /// Whole blocks from this one on, and the tail after the inode.
    Inline { block: u32 },
    /// A device's number, as `new_encode_dev` of Linux has it.
    Device { number: u32 },
}

/// An inode in either of its two forms.
pub struct Inode {
    pub layout: Layout,
    pub xattr_count: u16,
    pub mode: u16,
    pub size: u64,
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_secs: u64,
    pub mtime_nanos: u32,
    pub links: u32,
}

impl Inode {
    fn format(&self, version: u16) -> u16 {
        let layout = match self.layout {
            Layout::Inline { .. } => FLAT_INLINE,
            Layout::Plain { .. } | Layout::Device { .. } => FLAT_PLAIN,
        };
        layout << 1 | version
    }

    fn union(&self) -> u32 {
        match self.layout {
            Layout::Plain { block } | Layout::Inline { block } => block,
            Layout::Device { number } => number,
        }
    }

    /// `struct erofs_inode_compact`, where every field fits; it takes its time from the
    /// superblock.
    pub fn compact(&self) -> Option<[u8; COMPACT_SIZE]> {
        let links = u16::try_from(self.links).ok()?;
        let size = u32::try_from(self.size).ok()?;
        let uid = u16::try_from(self.uid).ok()?;
        let gid = u16::try_from(self.gid).ok()?;
        let mut out = [0; COMPACT_SIZE];
        put(&mut out, 0, self.format(0).to_le_bytes());
        put(&mut out, 2, self.xattr_count.to_le_bytes());
        put(&mut out, 4, self.mode.to_le_bytes());
        put(&mut out, 6, links.to_le_bytes());
        put(&mut out, 8, size.to_le_bytes());
        put(&mut out, 16, self.union().to_le_bytes());
        put(&mut out, 20, self.number.to_le_bytes());
        put(&mut out, 24, uid.to_le_bytes());
        put(&mut out, 26, gid.to_le_bytes());
        Some(out)
    }

    /// `struct erofs_inode_extended`.
    pub fn extended(&self) -> [u8; EXTENDED_SIZE] {
        let mut out = [0; EXTENDED_SIZE];
        put(&mut out, 0, self.format(1).to_le_bytes());
        put(&mut out, 2, self.xattr_count.to_le_bytes());
        put(&mut out, 4, self.mode.to_le_bytes());
        put(&mut out, 8, self.size.to_le_bytes());
        put(&mut out, 16, self.union().to_le_bytes());
        put(&mut out, 20, self.number.to_le_bytes());
        put(&mut out, 24, self.uid.to_le_bytes());
        put(&mut out, 28, self.gid.to_le_bytes());
        put(&mut out, 32, self.mtime_secs.to_le_bytes());
        put(&mut out, 40, self.mtime_nanos.to_le_bytes());
        put(&mut out, 44, self.links.to_le_bytes());
        out
    }
}

/// `struct erofs_dirent`.
pub fn dirent(nid: u64, name_offset: u16, file_type: u8) -> [u8; DIRENT_SIZE] {
    let mut out = [0; DIRENT_SIZE];
    put(&mut out, 0, nid.to_le_bytes());
    put(&mut out, 8, name_offset.to_le_bytes());
    out[10] = file_type;
    out
}

/// A device's number as the kernel's `new_encode_dev` packs it: 12 bits of major, 20 of minor.
/// Nothing when they do not fit.
pub fn device_number(major: u32, minor: u32) -> Option<u32> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return None;
    }
    Some((minor & 0xff) | major << 8 | (minor & !0xff) << 12)
}

fn put<const N: usize>(out: &mut [u8], offset: usize, bytes: [u8; N]) {
    out[offset..offset + N].copy_from_slice(&bytes);
}
