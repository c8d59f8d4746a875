//! The archive format of an initramfs: "newc" cpio, as the kernel reads it.
//! kernel documentation, driver-api/early-userspace/buffer-format.
//!
//! Every field that could tell when, where and by whom the archive was made is fixed: times and
//! owners are zero, inode numbers count up from 1. Writes only, and only folders, programs and
//! character devices.

/// buffer-format, `c_magic` of the format without checksum.
const MAGIC: &str = "070701";
/// buffer-format: the entry of this name ends the archive.
const TRAILER: &str = "TRAILER!!!";
/// buffer-format: header and name, and data, are padded to this.
const ALIGN: usize = 4;
/// File type bits, stat(2).
const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;

/// Why an entry does not fit in an archive.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpioError {
    /// A size, or the count of entries, is beyond the 32 bits of its field.
    #[error("add {name} to the archive: over 4 GiB")]
    TooLarge {
        /// The entry.
        name: String,
    },
}

/// What an entry is besides its name and permissions.
enum Content<'a> {
    Folder,
    File(&'a [u8]),
    CharacterDevice { major: u32, minor: u32 },
    End,
}

/// An archive in memory that grows entry by entry. A folder comes before what is in it.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    last_inode: u32,
}

impl Archive {
    /// Adds a folder. `name` has no leading slash.
    ///
    /// # Errors
    /// [`CpioError::TooLarge`].
    pub fn folder(&mut self, name: &str, permissions: u32) -> Result<(), CpioError> {
        self.entry(name, TYPE_FOLDER | permissions, &Content::Folder)
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// [`CpioError::TooLarge`].
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<(), CpioError> {
        self.entry(name, TYPE_FILE | permissions, &Content::File(data))
    }

    /// Adds a character device, which needs no right to make one here.
    ///
    /// # Errors
    /// [`CpioError::TooLarge`].
    pub fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        (major, minor): (u32, u32),
    ) -> Result<(), CpioError> {
        let content = Content::CharacterDevice { major, minor };
        self.entry(name, TYPE_CHARACTER_DEVICE | permissions, &content)
    }

    /// Ends the archive and returns its bytes.
    ///
    /// # Errors
    /// [`CpioError::TooLarge`].
    pub fn finish(mut self) -> Result<Vec<u8>, CpioError> {
        self.entry(TRAILER, 0, &Content::End)?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &Content<'_>) -> Result<(), CpioError> {
        let too_large = || CpioError::TooLarge { name: name.to_owned() };
        let (links, data, (major, minor)) = match *content {
            Content::Folder => (2, &[][..], (0, 0)),
            Content::File(data) => (1, data, (0, 0)),
            Content::CharacterDevice { major, minor } => (1, &[][..], (major, minor)),
            Content::End => (1, &[][..], (0, 0)),
        };
        let inode = match *content {
            Content::End => 0,
            _ => self.last_inode.checked_add(1).ok_or_else(too_large)?,
        };
        let size = u32::try_from(data.len()).map_err(|_| too_large())?;
        // With the zero byte that ends the name.
        let name_size = u32::try_from(name.len() + 1).map_err(|_| too_large())?;
        let (uid, gid, mtime) = (0, 0, 0);
        let (archive_major, archive_minor) = (0, 0);
        let unused_checksum = 0;
        let fields = [
            inode,
            mode,
            uid,
            gid,
            links,
            mtime,
            size,
            archive_major,
            archive_minor,
            major,
            minor,
            name_size,
            unused_checksum,
        ];
        self.last_inode = self.last_inode.max(inode);
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_has_the_documented_layout() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let header = concat!(
            "070701", "00000001", "000081ED", "00000000", "00000000", "00000001", "00000000",
            "00000005", "00000000", "00000000", "00000000", "00000000", "00000005", "00000000",
        );
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..], {
            let mut rest = b"init\0\0hello\0\0\0".to_vec();
            rest.extend_from_slice(
                format!("070701{}{:08X}{:08X}", "0".repeat(32), 1, 0).as_bytes(),
            );
            rest.extend_from_slice("0".repeat(40).as_bytes());
            rest.extend_from_slice(format!("{:08X}{:08X}", 11, 0).as_bytes());
            rest.extend_from_slice(b"TRAILER!!!\0\0\0\0");
            rest
        });
    }

    #[test]
    fn every_entry_starts_on_a_multiple_of_four() {
        for name in ["a", "ab", "abc", "abcd"] {
            for size in 0..5 {
                let mut archive = Archive::default();
                archive.file(name, 0o644, &vec![b'x'; size]).unwrap();
                let trailer_at = archive.bytes.len();
                let bytes = archive.finish().unwrap();
                assert_eq!(trailer_at % 4, 0);
                assert_eq!(&bytes[trailer_at..trailer_at + 6], MAGIC.as_bytes());
            }
        }
    }

    #[test]
    fn device_has_its_numbers_and_no_data() {
        let mut archive = Archive::default();
        archive.character_device("dev/console", 0o600, (5, 1)).unwrap();
        let text = String::from_utf8(archive.bytes[..110].to_vec()).unwrap();
        assert_eq!(&text[14..22], "00002180");
        assert_eq!(&text[78..94], "0000000500000001");
    }
}
