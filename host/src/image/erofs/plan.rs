//! Where each inode goes, before a byte of metadata is written. Pure.
//!
//! Inodes of a folder's entries stand together, near the folder's own. An inode never crosses a
//! block, because its tail must not; what a block cannot take any more goes into one of a few
//! blocks that are still open.

use std::collections::HashMap;

use super::data::Content;
use super::dirent;
use super::format::{COMPACT_SIZE, EXTENDED_SIZE, SLOT_SIZE};
use super::xattr;
use super::{BLOCK_SIZE, BLOCK_SIZE_U64};
use crate::image::tree::{Directory, Inode, InodeId, Kind, Timestamp, Tree};

/// Slots left free at the start, so that no inode has the number 0, which readers of directories
/// take for a deleted entry.
const FIRST_SLOT: usize = 2;
/// How many unfilled blocks are kept open.
const OPEN_BLOCKS: usize = 16;

/// The place and shape of one inode.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Offset in the metadata, a multiple of [`SLOT_SIZE`].
    pub offset: usize,
    pub is_compact: bool,
    /// Size of the data as the inode says it.
    pub size: u64,
    /// Bytes of data behind the inode.
    pub tail: usize,
    /// First of the blocks behind the metadata that hold the rest of the data of a folder or a
    /// link; counted from the metadata's end.
    pub extra_block: u32,
}

impl Place {
    /// The inode's number on disk.
    pub fn nid(&self) -> u64 {
        u64::try_from(self.offset / SLOT_SIZE).unwrap_or(u64::MAX)
    }
}

/// Where everything goes.
pub struct Plan {
    places: Vec<Option<Place>>,
    /// The inodes in the order of their placement; the root is the first.
    pub order: Vec<InodeId>,
    /// The time of compact inodes.
    pub build_time: Timestamp,
    /// Size of the metadata, a multiple of the block size.
    pub meta_bytes: usize,
    /// Blocks behind the metadata.
    pub extra_blocks: u32,
}

impl Plan {
    /// A plan for `tree`.
    pub fn new(tree: &Tree<Content>) -> Self {
        let mut plan = Plan {
            places: vec![None; tree.slots()],
            order: Vec::with_capacity(tree.inode_count()),
            build_time: most_common_time(tree),
            meta_bytes: 0,
            extra_blocks: 0,
        };
        let mut blocks = Blocks::new();
        plan.place(tree, InodeId::ROOT, &mut blocks);
        let mut folders = vec![InodeId::ROOT];
        while let Some(folder) = folders.pop() {
            let Kind::Directory(directory) = &tree.inode(folder).kind else { continue };
            let first_new = folders.len();
            for (_, id) in directory.entries() {
                if plan.places[id.index()].is_none() {
                    plan.place(tree, id, &mut blocks);
                }
                if matches!(tree.inode(id).kind, Kind::Directory(_)) {
                    folders.push(id);
                }
            }
            folders[first_new..].reverse();
        }
        // fsck.erofs up to 1.5 looks for attributes behind every inode, also behind the last one.
        let ends_with_inode = blocks.used_end == blocks.end && plan.extra_blocks == 0;
        plan.meta_bytes = blocks.end + if ends_with_inode { BLOCK_SIZE } else { 0 };
        plan
    }

    /// The place of an inode that is reachable from the root.
    pub fn of(&self, id: InodeId) -> Place {
        self.places[id.index()].expect("every reachable inode was placed by Plan::new")
    }

    fn place(&mut self, tree: &Tree<Content>, id: InodeId, blocks: &mut Blocks) {
        let inode = tree.inode(id);
        let is_compact = inode.meta.mtime == self.build_time && fits_compact(inode);
        let head = if is_compact { COMPACT_SIZE } else { EXTENDED_SIZE };
        let xattrs = xattr::stored_bytes(&inode.meta.xattrs).unwrap_or(0);
        let (size, tail) = match &inode.kind {
            Kind::File(content) => (content.size(), content.tail_len()),
            Kind::Directory(directory) => {
                let names = sorted_entries(directory, id);
                let size = dirent::data_size(names.iter().map(|(name, _)| name.len()));
                (size, tail_that_fits(size, head + xattrs))
            }
            Kind::Symlink(target) => {
                let size = u64::try_from(target.len()).unwrap_or(u64::MAX);
                (size, tail_that_fits(size, head + xattrs))
            }
            Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => (0, 0),
        };
        let extra_block = self.extra_blocks;
        if !matches!(inode.kind, Kind::File(_)) {
            let whole = size - u64::try_from(tail).unwrap_or(0);
            self.extra_blocks += u32::try_from(whole.div_ceil(BLOCK_SIZE_U64)).unwrap_or(u32::MAX);
        }
        let offset = blocks.allocate(head + xattrs + tail);
        self.places[id.index()] = Some(Place { offset, is_compact, size, tail, extra_block });
        self.order.push(id);
    }
}

/// The entries of a folder as they go to the disk: with `.` and `..`, sorted by the names' bytes.
pub fn sorted_entries(directory: &Directory, own: InodeId) -> Vec<(&[u8], InodeId)> {
    let mut entries: Vec<(&[u8], InodeId)> = Vec::with_capacity(directory.entries().len() + 2);
    entries.push((b".", own));
    entries.push((b"..", directory.parent()));
    entries.extend(directory.entries());
    entries.sort_unstable_by_key(|(name, _)| *name);
    entries
}

/// How many names an inode has on disk; a folder's are its own, `.` and its folders' `..`.
pub fn link_count(tree: &Tree<Content>, inode: &Inode<Content>) -> u32 {
    match &inode.kind {
        Kind::Directory(directory) => {
            let is_folder = |id: &InodeId| matches!(tree.inode(*id).kind, Kind::Directory(_));
            let folders = directory.entries().map(|(_, id)| id).filter(is_folder).count();
            u32::try_from(folders + 2).unwrap_or(u32::MAX)
        }
        _ => inode.names,
    }
}

/// The part of `size` bytes of data that goes behind `head` bytes of inode and attributes.
fn tail_that_fits(size: u64, head: usize) -> usize {
    let tail = usize::try_from(size % BLOCK_SIZE_U64).unwrap_or(BLOCK_SIZE);
    if head + tail <= BLOCK_SIZE { tail } else { 0 }
}

/// Whether owner, size and number of names fit the short form. Folders' numbers of names are
/// taken as their numbers of entries.
fn fits_compact(inode: &Inode<Content>) -> bool {
    let fits_u16 = |value: u32| u16::try_from(value).is_ok();
    let links_fit = match &inode.kind {
        Kind::Directory(directory) => directory.entries().len() < 32_000,
        _ => fits_u16(inode.names),
    };
    let size_fits = match &inode.kind {
        Kind::File(content) => u32::try_from(content.size()).is_ok(),
        _ => true,
    };
    links_fit && size_fits && fits_u16(inode.meta.uid) && fits_u16(inode.meta.gid)
}

/// The time that most inodes share; the earliest of them.
fn most_common_time(tree: &Tree<Content>) -> Timestamp {
    let mut counts: HashMap<Timestamp, usize> = HashMap::new();
    let mut pending = vec![InodeId::ROOT];
    while let Some(id) = pending.pop() {
        let inode = tree.inode(id);
        *counts.entry(inode.meta.mtime).or_default() += 1;
        if let Kind::Directory(directory) = &inode.kind {
            pending.extend(directory.entries().map(|(_, id)| id));
        }
    }
    let most = counts.into_iter().max_by_key(|(time, count)| (*count, std::cmp::Reverse(*time)));
    most.map_or_else(Timestamp::default, |(time, _)| time)
}

/// The blocks of the metadata while they fill.
struct Blocks {
    end: usize,
    /// Where the last inode ends.
    used_end: usize,
    /// Offset of the first free byte and number of free bytes, of blocks with room.
    open: Vec<(usize, usize)>,
}

impl Blocks {
    fn new() -> Self {
        let used = FIRST_SLOT * SLOT_SIZE;
        Blocks { end: BLOCK_SIZE, used_end: used, open: vec![(used, BLOCK_SIZE - used)] }
    }

    /// Offset of room for `bytes`: inside one block, or, where they are more than a block, from
    /// the start of one on.
    fn allocate(&mut self, bytes: usize) -> usize {
        let bytes = bytes.next_multiple_of(SLOT_SIZE);
        let fits = |(_, (_, room)): &(usize, &(usize, usize))| *room >= bytes;
        let best =
            self.open.iter().enumerate().filter(fits).min_by_key(|(_, (at, room))| (*room, *at));
        let (at, room) = match best.map(|(index, _)| index) {
            Some(index) => self.open.swap_remove(index),
            None => {
                let at = self.end;
                self.end += bytes.next_multiple_of(BLOCK_SIZE);
                (at, self.end - at)
            }
        };
        self.used_end = self.used_end.max(at + bytes);
        self.keep_open(at + bytes, room - bytes);
        at
    }

    fn keep_open(&mut self, at: usize, room: usize) {
        if room > 0 {
            self.open.push((at, room));
        }
        if self.open.len() > OPEN_BLOCKS {
            let least = self.open.iter().enumerate().min_by_key(|(_, (at, room))| (*room, *at));
            if let Some((index, _)) = least {
                self.open.swap_remove(index);
            }
        }
    }
}
