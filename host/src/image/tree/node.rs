//! What a tree is made of.

use std::collections::BTreeMap;

/// A point in time: seconds since 1970 and nanoseconds after them (below 10^9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 10^9.
    pub nanos: u32,
}

/// Owner, rights, time and attributes of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change.
    pub mtime: Timestamp,
    /// Extended attributes, ascending by name, each name once.
    pub xattrs: Box<[Xattr]>,
}

/// An extended attribute: whole name (`security.capability`) and value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name with its namespace.
    pub name: Box<[u8]>,
    /// Value.
    pub value: Box<[u8]>,
}

impl Meta {
    /// A folder that no layer describes: root's, 0755, without a time.
    pub(super) fn implied() -> Self {
        Meta { mode: 0o755, ..Meta::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum()
    }
}

/// What an entry is to become. `F` says where a file's data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewNode<F> {
    /// A folder; one that is there already keeps its entries.
    Directory,
    /// A file.
    File(F),
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// An inode's number in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub(super) u32);

impl InodeId {
    /// The root folder.
    pub const ROOT: InodeId = InodeId(0);

    /// Place in tables that have one slot for each of [`Tree::slots`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An inode.
#[derive(Debug)]
pub struct Inode<F> {
    /// Owner, rights, time and attributes.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind<F>,
    /// How many names it has; 0 when it is gone.
    pub names: u32,
}

/// What an inode is.
#[derive(Debug)]
pub enum Kind<F> {
    /// A folder.
    Directory(Directory),
    /// A file.
    File(F),
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A folder's entries, by name in the order of their bytes.
#[derive(Debug)]
pub struct Directory {
    pub(super) entries: BTreeMap<Box<[u8]>, Child>,
    pub(super) parent: InodeId,
    pub(super) depth: u16,
}

impl Directory {
    /// Names and inodes, ascending by the names' bytes.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], InodeId)> {
        self.entries.iter().map(|(name, child)| (&**name, child.inode))
    }

    /// The folder above; the root's is the root.
    pub fn parent(&self) -> InodeId {
        self.parent
    }
}

/// A name's inode.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    pub inode: InodeId,
    /// The last layer that described this name.
    pub layer: u32,
}
