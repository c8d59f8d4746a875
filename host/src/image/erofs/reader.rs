//! A reader of EROFS for tests: the least that reads what the writer writes, straight from the
//! format's description and sharing nothing with the writer.

use std::collections::BTreeMap;

/// The least that reads what the writer writes, straight from the format's description.
pub struct Reader {
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub mtime: (i64, u32),
    pub device: u32,
    pub nid: u64,
    pub xattrs: Vec<(u8, Vec<u8>, Vec<u8>)>,
    pub data: Vec<u8>,
}

impl Reader {
    fn number<const N: usize>(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&self.bytes[at..at + N]);
        u64::from_le_bytes(bytes)
    }

    fn at<const N: usize>(&self, at: usize) -> usize {
        usize::try_from(self.number::<N>(at)).unwrap()
    }

    /// Every path with its node; checks the order and shape of folders on the way.
    pub fn nodes(&self) -> BTreeMap<String, Node> {
        assert_eq!(self.number::<4>(1024), 0xE0F5_E1E2);
        let mut block = self.bytes[1024..4096].to_vec();
        block[4..8].fill(0);
        assert_eq!(self.number::<4>(1028), u64::from(!crc32c::crc32c(&block)));
        let mut nodes = BTreeMap::new();
        let root = self.number::<2>(1038);
        self.walk(root, root, "", &mut nodes);
        nodes
    }

    fn walk(&self, nid: u64, parent: u64, path: &str, nodes: &mut BTreeMap<String, Node>) {
        let node = self.node(nid);
        let entries = if node.mode & 0o170_000 == 0o040_000 { entries(&node.data) } else { vec![] };
        nodes.insert(path.to_owned(), node);
        for (name, child) in entries {
            match name.as_str() {
                "." => assert_eq!(child, nid),
                ".." => assert_eq!(child, parent),
                _ => self.walk(child, nid, &format!("{path}/{name}"), nodes),
            }
        }
    }

    fn node(&self, nid: u64) -> Node {
        let at = self.at::<4>(1064) * 4096 + usize::try_from(nid).unwrap() * 32;
        let format = self.number::<2>(at);
        let is_extended = format & 1 == 1;
        let xattr_count = self.at::<2>(at + 2);
        let xattr_bytes = if xattr_count == 0 { 0 } else { 12 + 4 * (xattr_count - 1) };
        let head = if is_extended { 64 } else { 32 };
        let u32_at = |offset: usize| u32::try_from(self.number::<4>(at + offset)).unwrap();
        let mode = u16::try_from(self.number::<2>(at + 4)).unwrap();
        let size = if is_extended { self.at::<8>(at + 8) } else { self.at::<4>(at + 8) };
        let block = self.at::<4>(at + 16);
        let device = if mode & 0o170_000 & 0o120_000 == 0o020_000 { u32_at(16) } else { 0 };
        let data = match format >> 1 {
            _ if size == 0 => Vec::new(),
            0 => self.bytes[block * 4096..block * 4096 + size].to_vec(),
            2 => {
                let whole = size / 4096 * 4096;
                let tail_at = at + head + xattr_bytes;
                let tail = &self.bytes[tail_at..tail_at + size - whole];
                assert_eq!(tail_at / 4096, (tail_at + tail.len() - 1) / 4096, "tail in one block");
                [&self.bytes[block * 4096..block * 4096 + whole], tail].concat()
            }
            other => panic!("layout {other}"),
        };
        let xattrs = self.xattrs(at + head, xattr_bytes);
        let (uid, gid, links, mtime);
        if is_extended {
            (uid, gid, links) = (u32_at(24), u32_at(28), u32_at(44));
            mtime = (self.number::<8>(at + 32).cast_signed(), u32_at(40));
        } else {
            uid = u32::try_from(self.number::<2>(at + 24)).unwrap();
            gid = u32::try_from(self.number::<2>(at + 26)).unwrap();
            links = u32::try_from(self.number::<2>(at + 6)).unwrap();
            let nanos = u32::try_from(self.number::<4>(1056)).unwrap();
            mtime = (self.number::<8>(1048).cast_signed(), nanos);
        }
        Node { mode, uid, gid, links, mtime, device, nid, xattrs, data }
    }

    fn xattrs(&self, mut at: usize, bytes: usize) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
        let end = at + bytes;
        at += 12;
        let mut xattrs = Vec::new();
        while at < end {
            let name = at + 4;
            let value = name + usize::from(self.bytes[at]);
            let value_end = value + self.at::<2>(at + 2);
            let bytes = (self.bytes[name..value].to_vec(), self.bytes[value..value_end].to_vec());
            xattrs.push((self.bytes[at + 1], bytes.0, bytes.1));
            at = value_end.next_multiple_of(4);
        }
        xattrs
    }
}

fn entries(data: &[u8]) -> Vec<(String, u64)> {
    let mut out: Vec<(String, u64)> = Vec::new();
    for block in data.chunks(4096) {
        let offset = |at: usize| usize::from(u16::from_le_bytes([block[at + 8], block[at + 9]]));
        let count = offset(0) / 12;
        for n in 0..count {
            let end = if n + 1 < count { offset((n + 1) * 12) } else { block.len() };
            let name = &block[offset(n * 12)..end];
            let name = name.split(|byte| *byte == 0).next().unwrap();
            let nid = u64::from_le_bytes(block[n * 12..n * 12 + 8].try_into().unwrap());
            out.push((String::from_utf8(name.to_vec()).unwrap(), nid));
        }
    }
    assert!(out.is_sorted_by(|a, b| a.0.as_bytes() < b.0.as_bytes()), "{out:?}");
    out
}
