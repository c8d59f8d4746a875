//! Why a tree refuses an entry.

use super::{MAX_DEPTH, MAX_LINKS_FOLLOWED};

/// Why an entry does not go into the tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A `..` in a name.
    #[error("a path with \"..\" is not allowed in a layer")]
    ParentComponent,
    /// A NUL in a name.
    #[error("the name has a NUL byte")]
    NulInName,
    /// A component that no file system holds.
    #[error("a file name is longer than 255 bytes")]
    NameLength,
    /// A path that Linux cannot name.
    #[error("the path is longer than 4095 bytes")]
    PathLength,
    /// Folders below folders without end.
    #[error("more than {MAX_DEPTH} folders above it")]
    Depth,
    /// `.wh.` with nothing, `.` or `..` after it.
    #[error("a whiteout without a name")]
    WhiteoutName,
    /// A component on the way is a file.
    #[error("a part of its path is not a folder")]
    NotAFolder,
    /// A loop of links, or too long a chain.
    #[error("more than {MAX_LINKS_FOLLOWED} symbolic links on its path")]
    TooManyLinks,
    /// The entry is the root and no folder.
    #[error("the root of the image must be a folder")]
    RootNotAFolder,
    /// A hard link whose target is not there.
    #[error("hard link to {target:?}, which is not in the image")]
    LinkTarget {
        /// The target as the archive has it.
        target: String,
    },
    /// A hard link to a folder.
    #[error("hard link to {target:?}, which is a folder")]
    LinkToFolder {
        /// The target as the archive has it.
        target: String,
    },
    /// A bound of the whole tree.
    #[error("the image has more than {limit} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}
