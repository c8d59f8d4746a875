//! The 512 bytes in front of an entry. Pure.
//!
//! Source: POSIX.1-2017 `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

use super::tar::{BLOCK, EntryType, TarError, as_u64, bad, until_nul};

/// Offset and length of a header's field, and its name.
pub type Field = (usize, usize, &'static str);
const NAME: Field = (0, 100, "name");
pub const MODE: Field = (100, 8, "mode");
pub const UID: Field = (108, 8, "uid");
pub const GID: Field = (116, 8, "gid");
pub const SIZE: Field = (124, 12, "size");
pub const MTIME: Field = (136, 12, "mtime");
const CHECKSUM: Field = (148, 8, "chksum");
const TYPE_FLAG: usize = 156;
pub const LINK: Field = (157, 100, "linkname");
const MAGIC: Field = (257, 6, "magic");
pub const DEV_MAJOR: Field = (329, 8, "devmajor");
pub const DEV_MINOR: Field = (337, 8, "devminor");
const PREFIX: Field = (345, 155, "prefix");

/// A header, whatever is in it.
pub struct Header(pub [u8; BLOCK]);

impl Header {
    fn bytes(&self, (offset, length, _): Field) -> &[u8] {
        &self.0[offset..offset + length]
    }

    /// The text of a field, up to its NUL.
    pub fn text(&self, field: Field) -> Vec<u8> {
        until_nul(self.bytes(field))
    }

    /// The number of a field.
    pub fn number(&self, field: Field) -> Result<u64, TarError> {
        parse_number(self.bytes(field)).ok_or(bad(field.2))
    }

    /// A number that may be negative in base 256, as GNU tar writes times before 1970.
    pub fn signed(&self, field: Field) -> Result<i64, TarError> {
        let bytes = self.bytes(field);
        if bytes[0] == 0xff {
            let (high, low) = bytes.split_at(bytes.len() - 8);
            let low = i64::from_be_bytes(low.try_into().map_err(|_| bad(field.2))?);
            let is_negative = high.iter().all(|byte| *byte == 0xff) && low < 0;
            return if is_negative { Ok(low) } else { Err(bad(field.2)) };
        }
        i64::try_from(self.number(field)?).map_err(|_| bad(field.2))
    }

    /// A number of 32 bits.
    pub fn id(&self, field: Field) -> Result<u32, TarError> {
        u32::try_from(self.number(field)?).map_err(|_| bad(field.2))
    }

    /// What the entry says it is.
    pub fn type_flag(&self) -> u8 {
        self.0[TYPE_FLAG]
    }

    /// What the entry is; `path` tells the folders of old archives.
    pub fn entry_type(&self, path: &[u8]) -> EntryType {
        match self.type_flag() {
            b'0' | 0 if path.last() == Some(&b'/') => EntryType::Directory,
            b'0' | 0 | b'7' | b'S' => EntryType::File,
            b'1' => EntryType::HardLink,
            b'2' => EntryType::Symlink,
            b'3' => EntryType::CharDevice,
            b'4' => EntryType::BlockDevice,
            b'5' => EntryType::Directory,
            b'6' => EntryType::Fifo,
            other => EntryType::Other(other),
        }
    }

    /// The name, with the prefix that POSIX archives (not GNU's own) put before it.
    pub fn path(&self) -> Vec<u8> {
        let name = self.text(NAME);
        let mut path = if self.bytes(MAGIC) == b"ustar\0" { self.text(PREFIX) } else { Vec::new() };
        if path.is_empty() {
            return name;
        }
        path.push(b'/');
        path.extend_from_slice(&name);
        path
    }

    /// Sum of all bytes with the checksum itself read as blanks; ancient archivers summed signed.
    pub fn checksum_is_right(&self) -> bool {
        let Ok(expected) = self.number(CHECKSUM) else { return false };
        let (offset, length, _) = CHECKSUM;
        let outside = |at: usize| at < offset || at >= offset + length;
        let blanks = 8 * u64::from(b' ');
        let bytes = || self.0.iter().enumerate().filter(|(at, _)| outside(*at)).map(|(_, b)| *b);
        let unsigned: u64 = bytes().map(u64::from).sum::<u64>() + blanks;
        let high_bytes = bytes().filter(|byte| *byte >= 128).count();
        unsigned == expected || unsigned.checked_sub(256 * as_u64(high_bytes)) == Some(expected)
    }
}

/// A numeric field: octal text with blanks or NULs around it, or base 256 when the first bit is
/// set. An empty field is 0. Nothing when it is neither, or negative, or does not fit.
pub fn parse_number(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        let top = u64::from(first & 0x7f);
        return rest.iter().try_fold(top, |value, byte| {
            value.checked_mul(256).map(|value| value | u64::from(*byte))
        });
    }
    let end = field.iter().rposition(|b| !matches!(b, b' ' | 0)).map_or(0, |last| last + 1);
    let text = field[..end].trim_ascii_start();
    text.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8).map(|value| value | u64::from(byte - b'0')),
        _ => None,
    })
}
