//! The end of an image file: metadata, large folders and the superblock, behind the data.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use super::data::{Content, DataError, DataWriter};
use super::dirent::{self, Dirent};
use super::format::{self, Layout, SuperBlock, file_type, mode};
use super::plan::{Place, Plan, link_count, sorted_entries};
use super::xattr;
use super::{BLOCK_SIZE, BLOCK_SIZE_U64};
use crate::image::tree::{InodeId, Kind, Tree};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Size of the image file in bytes.
    pub file_bytes: u64,
    /// The part of it that is not holes left by files of lower layers.
    pub used_bytes: u64,
    /// Files, folders, links and devices.
    pub inodes: u64,
}

/// Writes what comes behind the data, and the superblock. The file is complete then, but not yet
/// on stable storage. Blocks on the disk.
pub fn finish(
    mut data: DataWriter,
    tree: &Tree<Content>,
    uuid: [u8; 16],
) -> Result<(File, Summary), DataError> {
    let freed = data.close(tree.dropped())?;
    let plan = Plan::new(tree);
    let meta_block = data.blocks();
    let meta_blocks = u32::try_from(plan.meta_bytes / BLOCK_SIZE);
    let blocks = meta_blocks
        .ok()
        .and_then(|meta| meta_block.checked_add(meta)?.checked_add(plan.extra_blocks))
        .ok_or(DataError::TooLarge)?;
    let image = Image { tree, plan: &plan, extra_start: blocks - plan.extra_blocks };

    let metadata = image.metadata(&data);
    data.out().write_all(&metadata)?;
    image.write_extra_blocks(&mut data)?;

    let inodes = u64::try_from(plan.order.len()).unwrap_or(u64::MAX);
    let super_block = SuperBlock {
        root_nid: u16::try_from(plan.of(InodeId::ROOT).nid()).expect("the root is placed first"),
        inodes,
        build_time_secs: plan.build_time.secs.cast_unsigned(),
        build_time_nanos: plan.build_time.nanos,
        blocks,
        meta_block,
        uuid,
    };
    let file = data.into_file()?;
    file.write_all_at(&super_block.block(), 0)?;
    let file_bytes = u64::from(blocks) * BLOCK_SIZE_U64;
    let used_bytes = file_bytes.saturating_sub(freed * BLOCK_SIZE_U64);
    Ok((file, Summary { file_bytes, used_bytes, inodes }))
}

struct Image<'a> {
    tree: &'a Tree<Content>,
    plan: &'a Plan,
    /// First block behind the metadata.
    extra_start: u32,
}

impl Image<'_> {
    fn metadata(&self, data: &DataWriter) -> Vec<u8> {
        let mut metadata = vec![0; self.plan.meta_bytes];
        let mut record = Vec::new();
        for (number, id) in (1..).zip(&self.plan.order) {
            record.clear();
            let place = self.plan.of(*id);
            self.write_inode(*id, number, &place, data, &mut record);
            metadata[place.offset..place.offset + record.len()].copy_from_slice(&record);
        }
        metadata
    }

    /// The inode, its attributes and its tail.
    fn write_inode(
        &self,
        id: InodeId,
        number: u32,
        place: &Place,
        data: &DataWriter,
        out: &mut Vec<u8>,
    ) {
        let inode = self.tree.inode(id);
        let xattr_bytes = xattr::stored_bytes(&inode.meta.xattrs).unwrap_or(0);
        let disk = format::Inode {
            layout: self.layout(&inode.kind, place),
            xattr_count: xattr::count_field(xattr_bytes),
            mode: mode_type(&inode.kind) | inode.meta.mode,
            size: place.size,
            number,
            uid: inode.meta.uid,
            gid: inode.meta.gid,
            mtime_secs: inode.meta.mtime.secs.cast_unsigned(),
            mtime_nanos: inode.meta.mtime.nanos,
            links: link_count(self.tree, inode),
        };
        match disk.compact().filter(|_| place.is_compact) {
            Some(compact) => out.extend(compact),
            None => out.extend(disk.extended()),
        }
        xattr::write(&inode.meta.xattrs, out);
        match &inode.kind {
            Kind::File(content) => out.extend_from_slice(data.tail(content)),
            Kind::Directory(_) | Kind::Symlink(_) if place.tail > 0 => {
                let bytes = self.data_of(id);
                out.extend_from_slice(&bytes[bytes.len() - place.tail..]);
            }
            _ => {}
        }
    }

    fn layout(&self, kind: &Kind<Content>, place: &Place) -> Layout {
        let block = match kind {
            Kind::File(content) => content.block(),
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                let number = format::device_number(*major, *minor).unwrap_or(0);
                return Layout::Device { number };
            }
            Kind::Directory(_) | Kind::Symlink(_) => self.extra_start + place.extra_block,
            Kind::Fifo => 0,
        };
        if place.tail > 0 { Layout::Inline { block } } else { Layout::Plain { block } }
    }

    /// The blocks of folders and links that are not tails, in the order of the plan.
    fn write_extra_blocks(&self, data: &mut DataWriter) -> Result<(), DataError> {
        for id in &self.plan.order {
            let place = self.plan.of(*id);
            let tail = u64::try_from(place.tail).unwrap_or(0);
            let has_blocks = matches!(
                self.tree.inode(*id).kind,
                Kind::Directory(_) | Kind::Symlink(_) if place.size > tail
            );
            if has_blocks {
                let mut bytes = self.data_of(*id);
                bytes.truncate(bytes.len() - place.tail);
                bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
                data.out().write_all(&bytes)?;
            }
        }
        Ok(())
    }

    /// The data of a folder or a link.
    fn data_of(&self, id: InodeId) -> Vec<u8> {
        match &self.tree.inode(id).kind {
            Kind::Symlink(target) => target.to_vec(),
            Kind::Directory(directory) => {
                let entries = sorted_entries(directory, id);
                let dirents: Vec<Dirent<'_>> = entries
                    .into_iter()
                    .map(|(name, id)| Dirent {
                        name,
                        nid: self.plan.of(id).nid(),
                        file_type: dirent_type(&self.tree.inode(id).kind),
                    })
                    .collect();
                dirent::write(&dirents)
            }
            _ => Vec::new(),
        }
    }
}

fn mode_type(kind: &Kind<Content>) -> u16 {
    match kind {
        Kind::Directory(_) => mode::DIRECTORY,
        Kind::File(_) => mode::FILE,
        Kind::Symlink(_) => mode::SYMLINK,
        Kind::CharDevice(..) => mode::CHAR_DEVICE,
        Kind::BlockDevice(..) => mode::BLOCK_DEVICE,
        Kind::Fifo => mode::FIFO,
    }
}

fn dirent_type(kind: &Kind<Content>) -> u8 {
    match kind {
        Kind::Directory(_) => file_type::DIRECTORY,
        Kind::File(_) => file_type::FILE,
        Kind::Symlink(_) => file_type::SYMLINK,
        Kind::CharDevice(..) => file_type::CHAR_DEVICE,
        Kind::BlockDevice(..) => file_type::BLOCK_DEVICE,
        Kind::Fifo => file_type::FIFO,
    }
}
