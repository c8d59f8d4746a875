//! Extended attributes behind an inode. Each inode has its own copy: attributes are rare in
//! images, and short. Pure.
//!
//! Source: fs/erofs/erofs_fs.h of Linux 6.1, "inline xattrs".

use super::super::tree::Xattr;
use super::format::XATTR_HEADER_SIZE;

/// Longest name without its prefix: `e_name_len` is a byte.
const MAX_NAME: usize = 255;
/// Most bytes of all attributes of an inode: what Linux hands out in one value
/// (`XATTR_SIZE_MAX`).
const MAX_TOTAL: usize = 64 << 10;

/// Why attributes cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum XattrError {
    /// A name that Linux does not accept.
    #[error("extended attribute {name:?} has a name of the wrong length")]
    Name {
        /// The name.
        name: String,
    },
    /// Too many, or too large.
    #[error("extended attributes of {bytes} bytes (at most {MAX_TOTAL} are accepted)")]
    Size {
        /// Their size as stored.
        bytes: usize,
    },
}

/// `EROFS_XATTR_INDEX_*`, by prefix; the two ACLs are whole names.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Whether EROFS can hold an attribute of this name, and an image may bring it. Other systems'
/// namespaces (`com.apple.*`) cannot be held; `trusted.overlay.*` and `user.overlay.*` would
/// steer the overlay file system that the image is to be the lower layer of.
pub fn is_stored(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.")
        && !name.starts_with(b"user.overlay.")
        && split(name).is_some()
}

/// Bytes behind the inode for `xattrs`; 0 for none.
pub fn stored_bytes(xattrs: &[Xattr]) -> Result<usize, XattrError> {
    if xattrs.is_empty() {
        return Ok(0);
    }
    let mut bytes = XATTR_HEADER_SIZE;
    for xattr in xattrs {
        let length = split(&xattr.name).map_or(usize::MAX, |(_, rest)| rest.len());
        if length > MAX_NAME || xattr.name.contains(&0) {
            let name = String::from_utf8_lossy(&xattr.name).chars().take(80).collect();
            return Err(XattrError::Name { name });
        }
        bytes += entry_bytes(length, xattr.value.len());
        if bytes > MAX_TOTAL {
            return Err(XattrError::Size { bytes });
        }
    }
    Ok(bytes)
}

/// Value of `i_xattr_icount` for so many stored bytes.
pub(super) fn count_field(stored_bytes: usize) -> u16 {
    match stored_bytes.checked_sub(XATTR_HEADER_SIZE) {
        Some(entries) => u16::try_from(entries / 4 + 1).unwrap_or(u16::MAX),
        None => 0,
    }
}

/// Appends header and entries for `xattrs`, which [`stored_bytes`] accepted.
pub(super) fn write(xattrs: &[Xattr], out: &mut Vec<u8>) {
    if xattrs.is_empty() {
        return;
    }
    out.extend([0; XATTR_HEADER_SIZE]);
    for xattr in xattrs {
        let Some((index, name)) = split(&xattr.name) else { continue };
        let start = out.len();
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.push(index);
        out.extend(u16::try_from(xattr.value.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(&xattr.value);
        out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    }
}

fn entry_bytes(name: usize, value: usize) -> usize {
    (4 + name + value).next_multiple_of(4)
}

/// Index of the prefix, and the rest of the name.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(*prefix)?;
        let is_namespace = prefix.ends_with(b".");
        // A namespace needs a name in it; an ACL's name is whole.
        (is_namespace != rest.is_empty()).then_some((*index, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &str, value: &[u8]) -> Xattr {
        Xattr { name: name.as_bytes().into(), value: value.into() }
    }

    #[test]
    fn names_are_split_at_known_prefixes() {
        assert_eq!(split(b"user.x"), Some((1, &b"x"[..])));
        assert_eq!(split(b"security.capability"), Some((6, &b"capability"[..])));
        assert_eq!(split(b"system.posix_acl_access"), Some((2, &b""[..])));
        for unknown in [&b"user."[..], b"com.apple.x", b"system.posix_acl_accessx", b"system.x"] {
            assert_eq!(split(unknown), None);
            assert!(!is_stored(unknown));
        }
    }

    #[test]
    fn attributes_that_steer_overlays_are_left_out() {
        assert!(!is_stored(b"trusted.overlay.redirect"));
        assert!(!is_stored(b"user.overlay.opaque"));
        assert!(is_stored(b"trusted.other"));
    }

    #[test]
    fn written_bytes_are_the_bytes_announced() {
        let xattrs = [xattr("security.capability", &[1; 20]), xattr("user.a", b"xyz")];
        let mut out = Vec::new();
        write(&xattrs, &mut out);
        assert_eq!(out.len(), stored_bytes(&xattrs).unwrap());
        assert_eq!(count_field(out.len()), u16::try_from((out.len() - 12) / 4 + 1).unwrap());
        assert_eq!(count_field(0), 0);
    }

    #[test]
    fn attributes_without_bounds_are_refused() {
        let long = format!("user.{}", "x".repeat(256));
        assert!(matches!(stored_bytes(&[xattr(&long, b"")]), Err(XattrError::Name { .. })));
        let large = xattr("user.x", &[0; 40_000]);
        let two = [large.clone(), large];
        assert!(matches!(stored_bytes(&two), Err(XattrError::Size { .. })));
    }
}
