//! Images read back: by a reader of the tests' own, and by fsck.erofs where it is installed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::reader::Reader;
use super::*;
use crate::image::tree::{EntryPath, Meta, NewNode, Timestamp, Tree, Xattr};

const UUID: [u8; 16] = [7; 16];

/// A tree and its data on the way to an image.
struct Builder {
    tree: Tree<Content>,
    data: DataWriter,
    folder: tempfile::TempDir,
}

impl Builder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.erofs");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let mut tree = Tree::new();
        tree.begin_layer();
        Builder { tree, data: DataWriter::new(file).unwrap(), folder }
    }

    fn place(&mut self, name: &str, meta: Meta, node: NewNode<Content>) {
        self.tree.place(&EntryPath::parse(name.as_bytes()).unwrap(), meta, node).unwrap();
    }

    fn file(&mut self, name: &str, meta: Meta, bytes: &[u8]) {
        let xattrs = stored_xattr_bytes(&meta.xattrs).unwrap();
        let mut writer = self.data.begin(bytes.len().try_into().unwrap(), xattrs).unwrap();
        writer.write(bytes).unwrap();
        let content = writer.finish().unwrap();
        self.place(name, meta, NewNode::File(content));
    }

    fn finish(self) -> Written {
        let (_, summary) = finish(self.data, &self.tree, UUID).unwrap();
        let bytes = fs::read(self.folder.path().join("disk.erofs")).unwrap();
        assert_eq!(u64::try_from(bytes.len()).unwrap(), summary.file_bytes);
        Written { image: Reader { bytes }, summary, folder: self.folder }
    }
}

struct Written {
    image: Reader,
    summary: Summary,
    folder: tempfile::TempDir,
}

impl Written {
    /// Runs fsck.erofs; false, and loudly, when it is not installed.
    fn fsck(&self, arguments: &[&str]) -> bool {
        let disk = self.folder.path().join("disk.erofs");
        let output = match Command::new("fsck.erofs").args(arguments).arg(disk).output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: fsck.erofs is not installed (erofs-utils)");
                return false;
            }
            output => output.unwrap(),
        };
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
        true
    }
}

fn meta(mode: u16) -> Meta {
    Meta { mode, mtime: Timestamp { secs: 1_700_000_000, nanos: 0 }, ..Meta::default() }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

#[test]
fn all_kinds_of_nodes_are_read_back() {
    let mut builder = Builder::new();
    let odd = Meta {
        mode: 0o4755,
        uid: 4_000_000_000,
        gid: 70_000,
        mtime: Timestamp { secs: -5, nanos: 999_999_999 },
        xattrs: Box::new([Xattr {
            name: b"security.capability".as_slice().into(),
            value: [1, 2, 3].into(),
        }]),
    };
    builder.file("bin/odd", odd, b"x");
    builder.place("link", meta(0o777), NewNode::Symlink(b"bin/odd".as_slice().into()));
    builder.place("dev/null", meta(0o666), NewNode::CharDevice(1, 3));
    builder.place("dev/big", meta(0o600), NewNode::BlockDevice(4095, 1_048_575));
    builder.place("pipe", meta(0o600), NewNode::Fifo);
    let written = builder.finish();
    written.fsck(&[]);
    let nodes = written.image.nodes();

    let odd = &nodes["/bin/odd"];
    assert_eq!((odd.mode, odd.uid, odd.gid), (0o104_755, 4_000_000_000, 70_000));
    assert_eq!(odd.mtime, (-5, 999_999_999));
    assert_eq!(odd.xattrs, [(6, b"capability".to_vec(), vec![1, 2, 3])]);
    assert_eq!(odd.data, b"x");
    assert_eq!((nodes["/link"].mode, &*nodes["/link"].data), (0o120_777, &b"bin/odd"[..]));
    assert_eq!((nodes["/dev/null"].mode, nodes["/dev/null"].device), (0o020_666, 0x103));
    assert_eq!((nodes["/dev/big"].mode, nodes["/dev/big"].device), (0o060_600, 0xffff_ffff));
    assert_eq!(nodes["/pipe"].mode, 0o010_600);
    assert_eq!((nodes[""].mode, nodes[""].links), (0o040_755, 4));
    assert_eq!(written.summary.inodes, 8);
}

#[test]
fn files_of_all_sizes_around_blocks_and_tails_are_read_back() {
    let sizes = [0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 6144, 6145, 8191, 8192, 100_000];
    let mut builder = Builder::new();
    for size in sizes {
        builder.file(&format!("f{size}"), meta(0o644), &pattern(size));
    }
    let written = builder.finish();
    written.fsck(&[]);
    let nodes = written.image.nodes();
    for size in sizes {
        assert!(nodes[&format!("/f{size}")].data == pattern(size), "{size}");
    }
}

#[test]
fn large_folders_and_links_take_blocks_of_their_own() {
    let mut builder = Builder::new();
    for n in 0..3000 {
        builder.file(&format!("many/{n:05}-{}", "x".repeat(n % 200)), meta(0o644), b"");
    }
    let target = "t/".repeat(2040);
    builder.place("link", meta(0o777), NewNode::Symlink(target.as_bytes().into()));
    let written = builder.finish();
    written.fsck(&[]);
    let nodes = written.image.nodes();
    assert_eq!(nodes.keys().filter(|name| name.starts_with("/many/")).count(), 3000);
    assert_eq!(nodes["/link"].data, target.as_bytes());
}

#[test]
fn names_that_sort_before_dots_are_in_order() {
    let mut builder = Builder::new();
    for name in ["!", "-", "+x", "..x", "...", "a", "\u{e9}", "A"] {
        builder.file(name, meta(0o644), b"");
    }
    let written = builder.finish();
    written.fsck(&[]);
    assert_eq!(written.image.nodes().len(), 9);
}

#[test]
fn no_inode_has_the_number_zero_and_the_root_is_near_the_start() {
    let mut builder = Builder::new();
    for n in 0..2000 {
        builder.file(&format!("{n}"), meta(0o644), &pattern(n % 500));
    }
    let nodes = builder.finish().image.nodes();
    assert!(nodes.values().all(|node| node.nid > 0));
    assert!(nodes[""].nid < 128);
}

#[test]
fn inode_at_the_very_end_of_the_metadata_can_be_checked() {
    let mut builder = Builder::new();
    let value = vec![1; 3930].into();
    let xattrs = Box::new([Xattr { name: b"user.x".as_slice().into(), value }]);
    let odd_time = Timestamp { secs: 1, nanos: 1 };
    builder.file("fills-a-block-but-for-64-bytes", Meta { xattrs, ..meta(0) }, b"");
    builder.file("last", Meta { mtime: odd_time, ..meta(0) }, &pattern(2049));
    let written = builder.finish();
    written.fsck(&[]);
    assert!(written.image.nodes()["/last"].data == pattern(2049));
}

#[test]
fn hard_links_share_an_inode() {
    let mut builder = Builder::new();
    builder.file("a", meta(0o644), b"shared");
    let (a, b) = (EntryPath::parse(b"a").unwrap(), EntryPath::parse(b"d/b").unwrap());
    builder.tree.hard_link(&b, &a, "a").unwrap();
    let nodes = builder.finish().image.nodes();
    assert_eq!(nodes["/a"], nodes["/d/b"]);
    assert_eq!(nodes["/a"].links, 2);
}

#[test]
fn data_of_replaced_files_is_not_in_the_image() {
    let mut builder = Builder::new();
    builder.file("a", meta(0o644), &b"secret!!".repeat(1024));
    builder.tree.begin_layer();
    builder.file("a", meta(0o644), b"new");
    let written = builder.finish();
    assert!(!written.image.bytes.windows(8).any(|window| window == b"secret!!"));
    assert_eq!(written.summary.file_bytes - written.summary.used_bytes, 2 * 4096);
    assert_eq!(written.image.nodes()["/a"].data, b"new");
}

#[test]
fn holes_read_as_zeros_and_take_no_space() {
    let mut builder = Builder::new();
    let mut writer = builder.data.begin((64 << 20) + 3, 0).unwrap();
    writer.write(b"head").unwrap();
    writer.write_zeros((64 << 20) - 8).unwrap();
    writer.write(b"tail").unwrap();
    let content = writer.finish().unwrap();
    builder.place("sparse", meta(0o644), NewNode::File(content));
    builder.file("after", meta(0o644), &pattern(5000));
    let written = builder.finish();
    written.fsck(&[]);
    let nodes = written.image.nodes();
    let sparse = &nodes["/sparse"].data;
    assert_eq!(sparse.len(), (64 << 20) + 3);
    assert_eq!(&sparse[..5], b"head\0");
    assert_eq!(&sparse[(64 << 20) - 5..], b"\0tail\0\0\0");
    assert!(sparse[4..(64 << 20) - 4].iter().all(|byte| *byte == 0));
    assert!(nodes["/after"].data == pattern(5000));
    let disk = written.folder.path().join("disk.erofs").metadata().unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&disk) * 512 < 1 << 20);
}

#[test]
fn more_data_than_announced_is_an_error() {
    let mut builder = Builder::new();
    let mut writer = builder.data.begin(3, 0).unwrap();
    assert!(writer.write(b"four").is_err());
    assert!(writer.write_zeros(4).is_err());
    assert!(matches!(builder.data.begin(1 << 45, 0), Err(DataError::TooLarge)));
}

/// Every file below `folder` by its path: mode's rights, and content or link target.
fn unpacked(folder: &Path, prefix: &str, out: &mut BTreeMap<String, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let name = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
        let metadata = entry.metadata().unwrap();
        let rights = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            unpacked(&path, &name, out);
            out.insert(name, (rights, Vec::new()));
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            out.insert(name, (0o777, target.to_str().unwrap().as_bytes().to_vec()));
        } else {
            let mut bytes = Vec::new();
            File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            out.insert(name, (rights, bytes));
        }
    }
}

#[test]
fn fsck_extracts_what_was_put_in() {
    let mut builder = Builder::new();
    let mut expected = BTreeMap::new();
    for (n, size) in [0, 5, 2048, 4096, 9000, 300_000].into_iter().enumerate() {
        let mode = 0o600 + u16::try_from(n).unwrap();
        builder.file(&format!("d/f{n}"), meta(mode), &pattern(size));
        expected.insert(format!("/d/f{n}"), (u32::from(mode), pattern(size)));
    }
    builder.place("d", meta(0o750), NewNode::Directory);
    builder.place("d/l", meta(0o777), NewNode::Symlink(b"f1".as_slice().into()));
    expected.insert("/d".to_owned(), (0o750, Vec::new()));
    expected.insert("/d/l".to_owned(), (0o777, b"f1".to_vec()));
    let written = builder.finish();
    let out = written.folder.path().join("out");
    let extract = format!("--extract={}", out.display());
    if written.fsck(&[&extract, "--no-preserve-owner", "--preserve-perms"]) {
        let mut actual = BTreeMap::new();
        unpacked(&out, "", &mut actual);
        assert!(actual == expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_is_read_back_and_written_twice_the_same(
        files in proptest::collection::btree_map(
            "([a-c]{1,3}/){0,3}[d-f.]{3,60}",
            (0..20_000usize, 0..0o7777u16, any::<u32>(), any::<i32>(), 0..300usize),
            1..40,
        )
    ) {
        let build = || {
            let mut builder = Builder::new();
            for (name, (size, mode, uid, secs, xattr)) in &files {
                let xattrs: Box<[Xattr]> = match xattr {
                    0..200 => Box::new([]),
                    size => Box::new([Xattr {
                        name: b"user.x".as_slice().into(),
                        value: vec![1; size * 15].into(),
                    }]),
                };
                let mtime = Timestamp { secs: i64::from(*secs) & !0xff, nanos: 0 };
                let meta = Meta { mode: *mode, uid: *uid, gid: uid >> 16, mtime, xattrs };
                builder.file(name, meta, &pattern(*size));
            }
            builder.finish()
        };
        let written = build();
        written.fsck(&[]);
        let nodes = written.image.nodes();
        for (name, (size, mode, uid, secs, xattr)) in &files {
            let node = &nodes[&format!("/{name}")];
            prop_assert!(node.data == pattern(*size));
            prop_assert_eq!(node.mode, 0o100_000 | *mode);
            prop_assert_eq!((node.uid, node.gid), (*uid, uid >> 16));
            prop_assert_eq!(node.mtime, (i64::from(*secs) & !0xff, 0));
            prop_assert_eq!(node.xattrs.len(), usize::from(*xattr >= 200));
        }
        prop_assert!(build().image.bytes == written.image.bytes);
    }
}
