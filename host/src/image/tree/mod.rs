//! The file tree of an image, built layer by layer in memory: metadata only, the files' data is
//! somewhere else. Knows no tar and no disk format.
//!
//! ```text
//! begin_layer -> (place | hard_link | hide | make_opaque)* -> begin_layer -> ...
//! ```
//!
//! A whiteout hides what the layers below have and nothing of its own layer, wherever in the
//! layer it stands. A folder on the way to an entry is found as a process with this root would
//! find it: symbolic links are followed inside the root and cannot leave it.
//!
//! Source: OCI image-spec, layer.md, "Applying Changesets" and "Whiteouts".

mod error;
mod node;
mod path;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use error::TreeError;
use node::Child;
pub use node::{Directory, Inode, InodeId, Kind, Meta, NewNode, Timestamp, Xattr};
pub use path::{EntryPath, Meaning};

/// Most inodes that an image may have.
const MAX_INODES: usize = 2_000_000;
/// Most bytes of names, link targets and extended attributes, over the whole life of a tree.
const MAX_METADATA_BYTES: usize = 512 << 20;
/// What a name counts beside its length, so that many short ones have a bound too.
const BYTES_PER_NAME: usize = 64;
/// Most folders above an entry. Paths of an archive are shorter, but links can lead deeper.
const MAX_DEPTH: u16 = 1024;
/// Most symbolic links on the way to one entry. Source: path_resolution(7).
const MAX_LINKS_FOLLOWED: usize = 40;
/// Most components that may wait while links are resolved.
const MAX_PENDING: usize = 8192;

/// What to do about a folder that is missing on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    GiveUp,
}

/// A file tree under construction.
#[derive(Debug)]
pub struct Tree<F> {
    inodes: Vec<Inode<F>>,
    /// Slots of `inodes` that are free.
    free: Vec<InodeId>,
    layer: u32,
    metadata_bytes: usize,
    /// Data of files whose last name went away, in that order.
    dropped: Vec<F>,
}

impl<F> Default for Tree<F> {
    fn default() -> Self {
        Tree::new()
    }
}

impl<F> Tree<F> {
    /// A tree with nothing but a root folder: 0755, root's.
    pub fn new() -> Self {
        let entries = BTreeMap::new();
        let root = Directory { entries, parent: InodeId::ROOT, depth: 0 };
        let root = Inode { meta: Meta::implied(), kind: Kind::Directory(root), names: 1 };
        Tree {
            inodes: vec![root],
            free: Vec::new(),
            layer: 0,
            metadata_bytes: 0,
            dropped: Vec::new(),
        }
    }

    /// The entries that follow are of the next layer up.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// The inode with this number.
    pub fn inode(&self, id: InodeId) -> &Inode<F> {
        &self.inodes[id.index()]
    }

    /// One more than the largest index of any inode.
    pub fn slots(&self) -> usize {
        self.inodes.len()
    }

    /// How many inodes there are.
    pub fn inode_count(&self) -> usize {
        self.inodes.len() - self.free.len()
    }

    /// The data of files that are gone.
    pub fn dropped(&self) -> &[F] {
        &self.dropped
    }

    /// Puts an entry at `path` in place of whatever is there; a folder over a folder only
    /// changes its metadata.
    pub fn place(
        &mut self,
        path: &EntryPath<'_>,
        meta: Meta,
        node: NewNode<F>,
    ) -> Result<(), TreeError> {
        let Some((folders, name)) = path.split_last() else {
            return match node {
                NewNode::Directory => {
                    self.set_meta(InodeId::ROOT, meta)?;
                    Ok(())
                }
                _ => Err(TreeError::RootNotAFolder),
            };
        };
        let Some(folder) = self.walk(folders, Missing::Create)? else {
            return Err(TreeError::NotAFolder);
        };
        if let Some(child) = self.child(folder, name) {
            if matches!(node, NewNode::Directory) && self.directory(child.inode).is_some() {
                self.set_meta(child.inode, meta)?;
                self.link(folder, name, child.inode);
                return Ok(());
            }
            self.unlink(folder, name);
        }
        self.add(folder, name, meta, node).map(drop)
    }

    /// Gives the entry at `target` the name `path` too.
    pub fn hard_link(
        &mut self,
        path: &EntryPath<'_>,
        target: &EntryPath<'_>,
        target_text: &str,
    ) -> Result<(), TreeError> {
        let missing = || TreeError::LinkTarget { target: target_text.to_owned() };
        let to_folder = || TreeError::LinkToFolder { target: target_text.to_owned() };
        let (target_folders, target_name) = target.split_last().ok_or_else(to_folder)?;
        let target_folder = self.walk(target_folders, Missing::GiveUp)?.ok_or_else(missing)?;
        let inode = self.child(target_folder, target_name).ok_or_else(missing)?.inode;
        if self.directory(inode).is_some() {
            return Err(to_folder());
        }
        let (folders, name) = path.split_last().ok_or(TreeError::RootNotAFolder)?;
        let folder = self.walk(folders, Missing::Create)?.ok_or(TreeError::NotAFolder)?;
        self.account(BYTES_PER_NAME + name.len())?;
        // Counted before the old name goes: it may be a name of this very inode.
        self.inodes[inode.index()].names += 1;
        if self.child(folder, name).is_some() {
            self.unlink(folder, name);
        }
        self.link(folder, name, inode);
        Ok(())
    }

    /// A whiteout: hides what the layers below have as `name` in the folder of `path`.
    pub fn hide(&mut self, path: &EntryPath<'_>, name: &[u8]) -> Result<(), TreeError> {
        let (folders, _) = path.split_last().ok_or(TreeError::WhiteoutName)?;
        if let Some(folder) = self.walk(folders, Missing::GiveUp)? {
            self.hide_in(folder, name);
        }
        Ok(())
    }

    /// An opaque whiteout: hides all that the layers below have in the folder of `path`.
    pub fn make_opaque(&mut self, path: &EntryPath<'_>) -> Result<(), TreeError> {
        let (folders, _) = path.split_last().ok_or(TreeError::WhiteoutName)?;
        if let Some(folder) = self.walk(folders, Missing::GiveUp)? {
            self.hide_all_in(folder);
        }
        Ok(())
    }

    /// The folder at `components`, or nothing when it is not there and is not to be created.
    fn walk(
        &mut self,
        components: &[&[u8]],
        missing: Missing,
    ) -> Result<Option<InodeId>, TreeError> {
        let mut folder = InodeId::ROOT;
        let mut links_followed = 0;
        // What is still to be walked, the next one last.
        let mut pending: Vec<Cow<'_, [u8]>> =
            components.iter().rev().map(|component| Cow::Borrowed(*component)).collect();
        while let Some(name) = pending.pop() {
            let directory = self.directory(folder).ok_or(TreeError::NotAFolder)?;
            if *name == *b".." {
                folder = directory.parent;
                continue;
            }
            let Some(child) = directory.entries.get(&*name).copied() else {
                if missing == Missing::GiveUp {
                    return Ok(None);
                }
                folder = self.add(folder, &name, Meta::implied(), NewNode::Directory)?;
                continue;
            };
            match &self.inode(child.inode).kind {
                Kind::Directory(_) => folder = child.inode,
                Kind::Symlink(target) => {
                    links_followed += 1;
                    if links_followed > MAX_LINKS_FOLLOWED {
                        return Err(TreeError::TooManyLinks);
                    }
                    if target.first() == Some(&b'/') {
                        folder = InodeId::ROOT;
                    }
                    push_target(&mut pending, target)?;
                }
                _ if missing == Missing::GiveUp => return Ok(None),
                _ => return Err(TreeError::NotAFolder),
            }
        }
        Ok(Some(folder))
    }

    fn directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.inodes[id.index()].kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: InodeId) -> Option<&mut Directory> {
        match &mut self.inodes[id.index()].kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn child(&self, folder: InodeId, name: &[u8]) -> Option<Child> {
        self.directory(folder)?.entries.get(name).copied()
    }

    /// Enters `name` in `folder`, as of the current layer. The caller counts names.
    fn link(&mut self, folder: InodeId, name: &[u8], inode: InodeId) {
        let child = Child { inode, layer: self.layer };
        if let Some(directory) = self.directory_mut(folder) {
            directory.entries.insert(name.into(), child);
        }
    }

    fn set_meta(&mut self, id: InodeId, meta: Meta) -> Result<(), TreeError> {
        self.account(meta.bytes())?;
        self.inodes[id.index()].meta = meta;
        Ok(())
    }

    fn add(
        &mut self,
        folder: InodeId,
        name: &[u8],
        meta: Meta,
        node: NewNode<F>,
    ) -> Result<InodeId, TreeError> {
        let depth = self.directory(folder).map_or(0, |directory| directory.depth) + 1;
        if depth > MAX_DEPTH {
            return Err(TreeError::Depth);
        }
        let target_bytes = if let NewNode::Symlink(target) = &node { target.len() } else { 0 };
        self.account(BYTES_PER_NAME + name.len() + target_bytes + meta.bytes())?;
        let kind = match node {
            NewNode::Directory => {
                Kind::Directory(Directory { entries: BTreeMap::new(), parent: folder, depth })
            }
            NewNode::File(data) => Kind::File(data),
            NewNode::Symlink(target) => Kind::Symlink(target),
            NewNode::CharDevice(major, minor) => Kind::CharDevice(major, minor),
            NewNode::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
            NewNode::Fifo => Kind::Fifo,
        };
        let inode = Inode { meta, kind, names: 1 };
        let id = match self.free.pop() {
            Some(id) => {
                self.inodes[id.index()] = inode;
                id
            }
            None => self.push_inode(inode)?,
        };
        self.link(folder, name, id);
        Ok(id)
    }

    fn push_inode(&mut self, inode: Inode<F>) -> Result<InodeId, TreeError> {
        let too_much = TreeError::TooMuch { what: "files and folders", limit: MAX_INODES };
        let id = u32::try_from(self.inodes.len()).ok().filter(|_| self.inodes.len() < MAX_INODES);
        let id = InodeId(id.ok_or(too_much)?);
        self.inodes.push(inode);
        Ok(id)
    }

    fn account(&mut self, bytes: usize) -> Result<(), TreeError> {
        self.metadata_bytes += bytes;
        if self.metadata_bytes > MAX_METADATA_BYTES {
            let what = "bytes of names and attributes";
            return Err(TreeError::TooMuch { what, limit: MAX_METADATA_BYTES });
        }
        Ok(())
    }

    /// Takes `name` out of `folder`, with everything below it.
    fn unlink(&mut self, folder: InodeId, name: &[u8]) {
        let Some(child) = self.directory_mut(folder).and_then(|d| d.entries.remove(name)) else {
            return;
        };
        let mut doomed = vec![child.inode];
        while let Some(id) = doomed.pop() {
            let inode = &mut self.inodes[id.index()];
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            inode.meta = Meta::default();
            match std::mem::replace(&mut inode.kind, Kind::Fifo) {
                Kind::Directory(directory) => {
                    doomed.extend(directory.entries.values().map(|child| child.inode));
                }
                Kind::File(data) => self.dropped.push(data),
                _ => {}
            }
            self.free.push(id);
        }
    }

    /// Hides what the layers below have as `name`. What this layer has below it stays, under a
    /// folder that is then as if no layer had described it, unless this one did.
    fn hide_in(&mut self, folder: InodeId, name: &[u8]) {
        let Some(child) = self.child(folder, name) else { return };
        let is_new = child.layer == self.layer;
        if self.directory(child.inode).is_none() {
            if !is_new {
                self.unlink(folder, name);
            }
            return;
        }
        self.hide_all_in(child.inode);
        if is_new {
            return;
        }
        if self.directory(child.inode).is_some_and(|directory| directory.entries.is_empty()) {
            self.unlink(folder, name);
        } else {
            self.inodes[child.inode.index()].meta = Meta::implied();
            self.link(folder, name, child.inode);
        }
    }

    fn hide_all_in(&mut self, folder: InodeId) {
        let names: Vec<Box<[u8]>> = match self.directory(folder) {
            Some(directory) => directory.entries.keys().cloned().collect(),
            None => return,
        };
        for name in names {
            self.hide_in(folder, &name);
        }
    }
}

/// Puts the components of a link's target in front of what is to be walked.
fn push_target(pending: &mut Vec<Cow<'_, [u8]>>, target: &[u8]) -> Result<(), TreeError> {
    let components = target.split(|byte| *byte == b'/').rev();
    for component in components.filter(|component| !matches!(*component, b"" | b".")) {
        if component.len() > 255 {
            return Err(TreeError::NameLength);
        }
        pending.push(Cow::Owned(component.to_vec()));
    }
    if pending.len() > MAX_PENDING { Err(TreeError::TooManyLinks) } else { Ok(()) }
}
