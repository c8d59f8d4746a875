//! Names of layer entries, judged once: a value of [`EntryPath`] stays below the root it is
//! applied to. Symbolic links on its way are the tree's matter.
//!
//! Source: OCI image-spec, layer.md, "Whiteouts".

use super::TreeError;

/// Longest file name, as Linux and EROFS have it.
const MAX_NAME: usize = 255;
/// Longest path, as Linux has it (with its NUL).
const MAX_PATH: usize = 4096;
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path below the root: components without `.`, `..`, `/` and NUL.
#[derive(Debug, PartialEq, Eq)]
pub struct EntryPath<'a> {
    components: Vec<&'a [u8]>,
}

impl<'a> EntryPath<'a> {
    /// Reads a path as tar archives hold it: slashes at the start, doubled ones and `.` mean
    /// nothing; `..` is refused, because no honest layer has it.
    pub fn parse(path: &'a [u8]) -> Result<Self, TreeError> {
        if path.len() >= MAX_PATH {
            return Err(TreeError::PathLength);
        }
        if path.contains(&0) {
            return Err(TreeError::NulInName);
        }
        let mut components = Vec::new();
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(TreeError::ParentComponent),
                name if name.len() > MAX_NAME => return Err(TreeError::NameLength),
                name => components.push(name),
            }
        }
        Ok(EntryPath { components })
    }

    /// The folder's components and the last name, or nothing for the root itself.
    pub fn split_last(&self) -> Option<(&[&'a [u8]], &'a [u8])> {
        self.components.split_last().map(|(last, folder)| (folder, *last))
    }

    /// What the last name says by its prefix.
    pub fn meaning(&self) -> Result<Meaning<'a>, TreeError> {
        let Some(name) = self.components.last() else {
            return Ok(Meaning::Entry);
        };
        if *name == OPAQUE {
            return Ok(Meaning::Opaque);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(Meaning::Ignored);
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(Meaning::Entry),
            Some(b"" | b"." | b"..") => Err(TreeError::WhiteoutName),
            Some(hidden) => Ok(Meaning::Whiteout(hidden)),
        }
    }
}

/// What an entry of a layer stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// Itself.
    Entry,
    /// The removal of this name of the layers below.
    Whiteout(&'a [u8]),
    /// The removal of everything that the layers below have in this folder.
    Opaque,
    /// Book-keeping of aufs, which nobody needs.
    Ignored,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_of_a_path_does_not_matter() {
        let plain = EntryPath::parse(b"a/b").unwrap();
        for other in [&b"/a/b"[..], b"./a/b/", b"a//./b", b"//a/b//"] {
            assert_eq!(EntryPath::parse(other).unwrap(), plain);
        }
        assert_eq!(EntryPath::parse(b"./").unwrap().split_last(), None);
    }

    #[test]
    fn paths_that_climb_or_do_not_fit_are_refused() {
        assert!(matches!(EntryPath::parse(b"../x"), Err(TreeError::ParentComponent)));
        assert!(matches!(EntryPath::parse(b"/a/../../x"), Err(TreeError::ParentComponent)));
        assert!(matches!(EntryPath::parse(b"a\0b"), Err(TreeError::NulInName)));
        assert!(matches!(EntryPath::parse(&[b'x'; 256]), Err(TreeError::NameLength)));
        assert!(EntryPath::parse(&[b'x'; 255]).is_ok());
        assert!(matches!(EntryPath::parse(&b"a/".repeat(2048)), Err(TreeError::PathLength)));
    }

    #[test]
    fn whiteouts_are_told_by_their_names() {
        let meaning = |path: &'static [u8]| EntryPath::parse(path).unwrap().meaning();
        assert_eq!(meaning(b"a/.wh.b").unwrap(), Meaning::Whiteout(b"b"));
        assert_eq!(meaning(b"a/.wh..wh..opq").unwrap(), Meaning::Opaque);
        assert_eq!(meaning(b".wh..wh.plnk").unwrap(), Meaning::Ignored);
        assert_eq!(meaning(b".wh.a/b").unwrap(), Meaning::Entry);
        assert_eq!(meaning(b"./").unwrap(), Meaning::Entry);
        for bad in [&b".wh."[..], b"a/.wh..", b"a/.wh..."] {
            assert!(matches!(
                EntryPath::parse(bad).unwrap().meaning(),
                Err(TreeError::WhiteoutName)
            ));
        }
    }
}
