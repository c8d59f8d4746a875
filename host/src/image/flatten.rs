//! Layers into one disk: each tar entry's data goes straight into the EROFS file, its metadata
//! into the tree, and the tree behind the data at the end. Nothing is unpacked on the host.

use std::fs::File;
use std::io::Read;

use super::digest::Digest;
use super::erofs::{self, Content, DataError, DataWriter, Summary};
use super::layer::tar::{Entry, EntryType, TarReader, display_name};
use super::layer::{EntryError, LayerError, LayerStream, Layout, stream_layer};
use super::progress::Progress;
use super::tree::{EntryPath, Meaning, Meta, NewNode, Tree, TreeError, Xattr};

/// Longest target of a symbolic link. Source: `PATH_MAX` with its NUL.
const MAX_SYMLINK: usize = 4095;

/// Why layers do not become a disk.
#[derive(Debug, thiserror::Error)]
pub enum FlattenError {
    /// A layer is at fault.
    #[error("layer {digest}")]
    Layer {
        /// Digest of the layer's blob, or of its tar where the archive has no other.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// The disk is at fault.
    #[error(transparent)]
    Disk(#[from] DataError),
}

/// A layer to be flattened.
pub struct Layer {
    /// What it must be.
    pub layout: Layout,
    /// The blob.
    pub blob: Box<dyn Read + Send>,
}

/// Flattens `layers`, the lowest first, into `out`, which is empty. The file is complete then,
/// but not yet on stable storage. Blocks on the disk; takes a second thread while it works.
pub fn flatten(
    layers: impl IntoIterator<Item = Result<Layer, FlattenError>>,
    out: File,
    uuid: [u8; 16],
    progress: &dyn Progress,
) -> Result<(File, Summary), FlattenError> {
    let mut image = Image { tree: Tree::new(), data: DataWriter::new(out)? };
    for layer in layers {
        image.add_layer(layer?, progress)?;
    }
    Ok(erofs::finish(image.data, &image.tree, uuid)?)
}

struct Image {
    tree: Tree<Content>,
    data: DataWriter,
}

/// An error inside of a layer that may be the disk's.
enum Fault {
    Layer(LayerError),
    Disk(DataError),
}

impl<E: Into<LayerError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Fault::Layer(error.into())
    }
}

impl Image {
    fn add_layer(&mut self, layer: Layer, progress: &dyn Progress) -> Result<(), FlattenError> {
        let digest = layer.layout.name().clone();
        self.tree.begin_layer();
        let added =
            stream_layer(layer.blob, &layer.layout, progress, |stream| self.add_entries(stream));
        added.map_err(|fault| match fault {
            Fault::Layer(source) => FlattenError::Layer { digest, source },
            Fault::Disk(error) => FlattenError::Disk(error),
        })
    }

    fn add_entries(&mut self, stream: &mut LayerStream<'_>) -> Result<(), Fault> {
        let mut tar = TarReader::new(stream);
        while let Some(entry) = tar.next_entry()? {
            self.add_entry(entry, &mut tar)?;
        }
        Ok(())
    }

    fn add_entry(
        &mut self,
        mut entry: Entry,
        tar: &mut TarReader<&mut LayerStream<'_>>,
    ) -> Result<(), Fault> {
        let name = std::mem::take(&mut entry.path);
        let at_fault = |source: EntryError| LayerError::Entry { name: display_name(&name), source };
        let path = EntryPath::parse(&name).map_err(|error| at_fault(error.into()))?;
        match path.meaning().map_err(|error| at_fault(error.into()))? {
            Meaning::Ignored => {}
            Meaning::Whiteout(hidden) => {
                self.tree.hide(&path, hidden).map_err(|error| at_fault(error.into()))?;
            }
            Meaning::Opaque => {
                self.tree.make_opaque(&path).map_err(|error| at_fault(error.into()))?;
            }
            Meaning::Entry if entry.kind == EntryType::HardLink => {
                hard_link(&mut self.tree, &path, &entry.link)
                    .map_err(|error| at_fault(error.into()))?;
            }
            Meaning::Entry => {
                let (meta, xattr_bytes) = meta(&mut entry).map_err(at_fault)?;
                let node = match entry.kind {
                    EntryType::File => {
                        NewNode::File(store_data(&mut self.data, &entry, xattr_bytes, tar)?)
                    }
                    _ => special_node(&entry).map_err(at_fault)?,
                };
                self.tree.place(&path, meta, node).map_err(|error| at_fault(error.into()))?;
            }
        }
        Ok(())
    }
}

fn store_data(
    data: &mut DataWriter,
    entry: &Entry,
    xattr_bytes: usize,
    tar: &mut TarReader<&mut LayerStream<'_>>,
) -> Result<Content, Fault> {
    let mut file = data.begin(entry.size, xattr_bytes).map_err(Fault::Disk)?;
    match &entry.sparse {
        None => tar.read_data(entry.size, |bytes| file.write(bytes).map_err(Fault::Disk))?,
        Some(pieces) => {
            let mut at = 0;
            for (offset, length) in pieces {
                file.write_zeros(offset - at).map_err(Fault::Disk)?;
                tar.read_data(*length, |bytes| file.write(bytes).map_err(Fault::Disk))?;
                at = offset + length;
            }
        }
    }
    file.finish().map_err(Fault::Disk)
}

fn hard_link(
    tree: &mut Tree<Content>,
    path: &EntryPath<'_>,
    target: &[u8],
) -> Result<(), TreeError> {
    tree.hard_link(path, &EntryPath::parse(target)?, &display_name(target))
}

/// Everything that is neither a file nor a hard link.
fn special_node(entry: &Entry) -> Result<NewNode<Content>, EntryError> {
    let (major, minor) = entry.device;
    match entry.kind {
        EntryType::Directory => Ok(NewNode::Directory),
        EntryType::Fifo => Ok(NewNode::Fifo),
        EntryType::Symlink => {
            let target = &entry.link;
            if target.is_empty() || target.len() > MAX_SYMLINK || target.contains(&0) {
                return Err(EntryError::SymlinkTarget);
            }
            Ok(NewNode::Symlink(target.as_slice().into()))
        }
        EntryType::CharDevice | EntryType::BlockDevice if !erofs::device_fits(major, minor) => {
            Err(EntryError::Device { major, minor })
        }
        EntryType::CharDevice => Ok(NewNode::CharDevice(major, minor)),
        EntryType::BlockDevice => Ok(NewNode::BlockDevice(major, minor)),
        EntryType::Other(flag) => Err(EntryError::Type(char::from(flag))),
        EntryType::File | EntryType::HardLink => Err(EntryError::Type('0')),
    }
}

/// Metadata of an entry, and the bytes that its attributes take on disk.
fn meta(entry: &mut Entry) -> Result<(Meta, usize), EntryError> {
    let mut xattrs: Vec<Xattr> = std::mem::take(&mut entry.xattrs)
        .into_iter()
        .filter(|(name, _)| erofs::is_stored_xattr(name))
        .map(|(name, value)| Xattr { name: name.into(), value: value.into() })
        .collect();
    // The last one of a name wins: sort keeps the archive's order among equals.
    xattrs.reverse();
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    xattrs.dedup_by(|a, b| a.name == b.name);
    let xattr_bytes = erofs::stored_xattr_bytes(&xattrs)?;
    // Linux knows no rights of symbolic links.
    let mode = if entry.kind == EntryType::Symlink { 0o777 } else { entry.mode };
    let Entry { uid, gid, mtime, .. } = *entry;
    Ok((Meta { mode, uid, gid, mtime, xattrs: xattrs.into() }, xattr_bytes))
}
