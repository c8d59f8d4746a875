//! One layer of an image: tar entries in the order they are named, hostile ones too.

use std::io;

use tar::{Builder, EntryType, Header};

/// A layer under construction. Every method that changes "the entry" means the one named last.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    header: Header,
    name: Vec<u8>,
    link: Option<Vec<u8>>,
    xattrs: Vec<(String, Vec<u8>)>,
    content: Vec<u8>,
}

impl Layer {
    /// A layer without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn add(mut self, kind: EntryType, name: &str, mode: u32) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.entries.push(Entry {
            header,
            name: name.as_bytes().to_vec(),
            link: None,
            xattrs: Vec::new(),
            content: Vec::new(),
        });
        self
    }

    fn last(&mut self) -> &mut Entry {
        self.entries.last_mut().expect("an entry is named before it is changed")
    }

    /// A folder; the name needs no slash at its end.
    #[must_use]
    pub fn dir(self, name: &str, mode: u32) -> Self {
        let name = format!("{}/", name.trim_end_matches('/'));
        self.add(EntryType::Directory, &name, mode)
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        let mut layer = self.add(EntryType::Regular, name, mode);
        let entry = layer.last();
        entry.content = content.into();
        entry.header.set_size(entry.content.len() as u64);
        layer
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, name, target)
    }

    /// A hard link; the target is a name of the archive.
    #[must_use]
    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Link, name, target)
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut layer = self.add(kind, name, 0o777);
        layer.last().link = Some(target.as_bytes().to_vec());
        layer
    }

    /// A character device.
    #[must_use]
    pub fn char_device(self, name: &str, mode: u32, major: u32, minor: u32) -> Self {
        let mut layer = self.add(EntryType::Char, name, mode);
        let header = &mut layer.last().header;
        let ustar = header.as_gnu_mut().expect("headers are made in the GNU format");
        ustar.set_device_major(major);
        ustar.set_device_minor(minor);
        layer
    }

    /// A named pipe.
    #[must_use]
    pub fn fifo(self, name: &str, mode: u32) -> Self {
        self.add(EntryType::Fifo, name, mode)
    }

    /// Takes what lower layers have at `name` away. OCI image-spec, layer.md, "Whiteouts".
    #[must_use]
    pub fn whiteout(self, name: &str) -> Self {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let name = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.file(&format!("{name}.wh.{file}"), 0o644, "")
    }

    /// Takes away what lower layers have in a folder. OCI image-spec, layer.md, "Opaque Whiteout".
    #[must_use]
    pub fn opaque(self, folder: &str) -> Self {
        self.file(&format!("{folder}/.wh..wh..opq"), 0o644, "")
    }

    /// Owner and group of the entry.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        let header = &mut self.last().header;
        header.set_uid(uid);
        header.set_gid(gid);
        self
    }

    /// An extended attribute of the entry, as GNU tar writes it.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.last().xattrs.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    /// All entries of another layer after those of this one.
    #[must_use]
    pub fn and(mut self, other: Layer) -> Self {
        self.entries.extend(other.entries);
        self
    }

    /// The tar archive. Names go in as they are, `..` and leading slashes included.
    ///
    /// # Panics
    /// For names longer than a header has room for.
    #[must_use]
    pub fn to_tar(&self) -> Vec<u8> {
        self.pack().expect("writing into memory works")
    }

    fn pack(&self) -> io::Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for entry in &self.entries {
            if !entry.xattrs.is_empty() {
                let pairs = entry.xattrs.iter().map(|(name, value)| (&**name, &**value));
                builder.append_pax_extensions(pairs)?;
            }
            let mut header = entry.header.clone();
            let raw = header.as_gnu_mut().expect("headers are made in the GNU format");
            copy_name(&mut raw.name, &entry.name);
            copy_name(&mut raw.linkname, entry.link.as_deref().unwrap_or_default());
            header.set_cksum();
            builder.append(&header, entry.content.as_slice())?;
        }
        builder.into_inner()
    }
}

fn copy_name(field: &mut [u8], name: &[u8]) {
    assert!(name.len() <= field.len(), "a name of {} bytes", name.len());
    field[..name.len()].copy_from_slice(name);
}
