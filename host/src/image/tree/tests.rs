//! The tree by example, and against an oracle that knows only paths.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type TestTree = Tree<u32>;

fn path(text: &str) -> EntryPath<'_> {
    EntryPath::parse(text.as_bytes()).unwrap()
}

fn meta(mode: u16) -> Meta {
    Meta { mode, ..Meta::default() }
}

fn dir(tree: &mut TestTree, name: &str) {
    tree.place(&path(name), meta(0o700), NewNode::Directory).unwrap();
}

fn file(tree: &mut TestTree, name: &str, data: u32) {
    tree.place(&path(name), meta(0o644), NewNode::File(data)).unwrap();
}

fn symlink(tree: &mut TestTree, name: &str, target: &str) {
    tree.place(&path(name), meta(0o777), NewNode::Symlink(target.as_bytes().into())).unwrap();
}

fn link(tree: &mut TestTree, name: &str, target: &str) -> Result<(), TreeError> {
    tree.hard_link(&path(name), &path(target), target)
}

fn hide(tree: &mut TestTree, folder: &str, name: &str) {
    let whole = format!("{folder}/.wh.{name}");
    tree.hide(&path(&whole), name.as_bytes()).unwrap();
}

fn make_opaque(tree: &mut TestTree, folder: &str) {
    tree.make_opaque(&path(&format!("{folder}/.wh..wh..opq"))).unwrap();
}

/// One line per name: `path/` for folders, `path=data` for files, `path->target` for links.
fn listing(tree: &TestTree) -> Vec<String> {
    fn walk(tree: &TestTree, id: InodeId, prefix: &str, out: &mut Vec<String>) {
        let Kind::Directory(directory) = &tree.inode(id).kind else { return };
        for (name, child) in directory.entries() {
            let whole = format!("{prefix}{}", String::from_utf8_lossy(name));
            match &tree.inode(child).kind {
                Kind::Directory(_) => {
                    out.push(format!("{whole}/"));
                    walk(tree, child, &format!("{whole}/"), out);
                }
                Kind::File(data) => out.push(format!("{whole}={data}")),
                Kind::Symlink(to) => {
                    out.push(format!("{whole}->{}", String::from_utf8_lossy(to)));
                }
                other => out.push(format!("{whole}:{other:?}")),
            }
        }
    }
    let mut out = Vec::new();
    walk(tree, InodeId::ROOT, "", &mut out);
    out
}

/// Counts that must agree with what can be reached from the root.
fn assert_sound(tree: &TestTree) {
    let mut names: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut pending = vec![InodeId::ROOT];
    names.insert(InodeId::ROOT, 1);
    while let Some(id) = pending.pop() {
        if let Kind::Directory(directory) = &tree.inode(id).kind {
            for (_, child) in directory.entries() {
                *names.entry(child).or_default() += 1;
                if let Kind::Directory(below) = &tree.inode(child).kind {
                    assert_eq!(below.parent(), id);
                    pending.push(child);
                }
            }
        }
    }
    for (id, count) in &names {
        assert_eq!(tree.inode(*id).names, *count);
    }
    assert_eq!(tree.inode_count(), names.len());
}

#[test]
fn upper_layer_replaces_files_and_keeps_folders() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    dir(&mut tree, "a");
    file(&mut tree, "a/x", 1);
    file(&mut tree, "a/y", 2);
    tree.begin_layer();
    tree.place(&path("a"), meta(0o755), NewNode::Directory).unwrap();
    file(&mut tree, "a/x", 3);
    assert_eq!(listing(&tree), ["a/", "a/x=3", "a/y=2"]);
    assert_eq!(tree.dropped(), [1]);
    assert_sound(&tree);
}

#[test]
fn whiteout_hides_layers_below_but_not_its_own() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    file(&mut tree, "a/x", 1);
    file(&mut tree, "a/y", 2);
    tree.begin_layer();
    file(&mut tree, "a/y", 3);
    hide(&mut tree, "a", "x");
    hide(&mut tree, "a", "y");
    hide(&mut tree, "a", "z");
    hide(&mut tree, "not/there", "z");
    assert_eq!(listing(&tree), ["a/", "a/y=3"]);
    assert_sound(&tree);
}

#[test]
fn whiteout_of_a_folder_hides_all_of_it() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    dir(&mut tree, "a/b");
    file(&mut tree, "a/b/c", 1);
    tree.begin_layer();
    hide(&mut tree, "", "a");
    assert!(listing(&tree).is_empty());
    assert_eq!(tree.dropped(), [1]);
    assert_eq!(tree.inode_count(), 1);
}

#[test]
fn whiteout_after_new_content_keeps_the_content_under_a_plain_folder() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    dir(&mut tree, "a");
    file(&mut tree, "a/old", 1);
    tree.begin_layer();
    file(&mut tree, "a/new", 2);
    hide(&mut tree, "", "a");
    assert_eq!(listing(&tree), ["a/", "a/new=2"]);
    let id = tree.child(InodeId::ROOT, b"a").unwrap().inode;
    assert_eq!(tree.inode(id).meta, Meta::implied());
}

#[test]
fn opaque_folder_hides_what_is_below_in_any_order() {
    for opaque_first in [true, false] {
        let mut tree = TestTree::new();
        tree.begin_layer();
        file(&mut tree, "a/old", 1);
        file(&mut tree, "a/sub/old", 2);
        tree.begin_layer();
        dir(&mut tree, "a");
        if opaque_first {
            make_opaque(&mut tree, "a");
        }
        file(&mut tree, "a/sub/new", 3);
        if !opaque_first {
            make_opaque(&mut tree, "a");
        }
        assert_eq!(listing(&tree), ["a/", "a/sub/", "a/sub/new=3"], "{opaque_first}");
        assert_sound(&tree);
    }
}

#[test]
fn hard_links_reach_into_lower_layers_and_outlive_them() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    file(&mut tree, "a", 1);
    tree.begin_layer();
    link(&mut tree, "d/b", "a").unwrap();
    hide(&mut tree, "", "a");
    assert_eq!(listing(&tree), ["d/", "d/b=1"]);
    assert!(tree.dropped().is_empty());
    link(&mut tree, "d/b", "d/b").unwrap();
    link(&mut tree, "c", "/d/b").unwrap();
    assert_eq!(listing(&tree), ["c=1", "d/", "d/b=1"]);
    assert_sound(&tree);
}

#[test]
fn change_of_a_file_leaves_its_other_names_alone() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    file(&mut tree, "a", 1);
    link(&mut tree, "b", "a").unwrap();
    tree.begin_layer();
    file(&mut tree, "a", 2);
    assert_eq!(listing(&tree), ["a=2", "b=1"]);
    assert_sound(&tree);
}

#[test]
fn hard_links_to_nothing_and_to_folders_are_refused() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    dir(&mut tree, "a");
    file(&mut tree, "f", 1);
    symlink(&mut tree, "out", "../../..");
    let missing = |error| matches!(error, Err(TreeError::LinkTarget { .. }));
    assert!(missing(link(&mut tree, "x", "nothing")));
    assert!(missing(link(&mut tree, "x", "/no/such")));
    assert!(missing(link(&mut tree, "x", "f/y")));
    assert!(missing(link(&mut tree, "x", "out/proc/version")));
    assert!(matches!(link(&mut tree, "x", "a"), Err(TreeError::LinkToFolder { .. })));
    assert!(matches!(link(&mut tree, "x", "/"), Err(TreeError::LinkToFolder { .. })));
    assert_eq!(listing(&tree), ["a/", "f=1", "out->../../.."]);
}

#[test]
fn folders_and_files_replace_each_other() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    file(&mut tree, "a/b/c", 1);
    file(&mut tree, "d", 2);
    tree.begin_layer();
    file(&mut tree, "a", 3);
    dir(&mut tree, "d");
    file(&mut tree, "d/e", 4);
    assert_eq!(listing(&tree), ["a=3", "d/", "d/e=4"]);
    assert_eq!(tree.dropped(), [1, 2]);
    assert_sound(&tree);
}

#[test]
fn links_on_the_way_are_followed_inside_the_root() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    dir(&mut tree, "usr/bin");
    symlink(&mut tree, "bin", "usr/bin");
    symlink(&mut tree, "usr/up", "../../../../etc");
    symlink(&mut tree, "abs", "/usr/./bin/../bin");
    tree.begin_layer();
    file(&mut tree, "bin/sh", 1);
    file(&mut tree, "abs/ls", 2);
    file(&mut tree, "usr/up/passwd", 3);
    assert_eq!(
        listing(&tree),
        [
            "abs->/usr/./bin/../bin",
            "bin->usr/bin",
            "etc/",
            "etc/passwd=3",
            "usr/",
            "usr/bin/",
            "usr/bin/ls=2",
            "usr/bin/sh=1",
            "usr/up->../../../../etc",
        ]
    );
}

#[test]
fn the_last_component_is_not_followed() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    dir(&mut tree, "real");
    symlink(&mut tree, "l", "real");
    tree.begin_layer();
    dir(&mut tree, "l");
    assert_eq!(listing(&tree), ["l/", "real/"]);
}

#[test]
fn loops_of_links_are_refused() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    symlink(&mut tree, "a", "b");
    symlink(&mut tree, "b", "a");
    symlink(&mut tree, "c", "c/c/c/c/c/c");
    for name in ["a/x", "c/x"] {
        let placed = tree.place(&path(name), meta(0), NewNode::Fifo);
        assert!(matches!(placed, Err(TreeError::TooManyLinks)), "{name}");
    }
}

#[test]
fn entries_below_files_are_refused() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    file(&mut tree, "a", 1);
    let placed = tree.place(&path("a/b"), meta(0), NewNode::Fifo);
    assert!(matches!(placed, Err(TreeError::NotAFolder)));
    let placed = tree.place(&path("/"), meta(0), NewNode::Fifo);
    assert!(matches!(placed, Err(TreeError::RootNotAFolder)));
}

#[test]
fn root_takes_the_attributes_of_its_entry() {
    let mut tree = TestTree::new();
    assert_eq!(tree.inode(InodeId::ROOT).meta, Meta::implied());
    tree.place(&path("./"), meta(0o1777), NewNode::Directory).unwrap();
    assert_eq!(tree.inode(InodeId::ROOT).meta.mode, 0o1777);
}

#[test]
fn deep_trees_end_and_go_away_without_a_deep_stack() {
    let mut tree = TestTree::new();
    tree.begin_layer();
    let deep = "d/".repeat(1000);
    dir(&mut tree, &deep);
    // A link leads deeper than any path could name.
    symlink(&mut tree, "link", &deep);
    let further = format!("link/{}", "d/".repeat(100));
    let placed = tree.place(&path(&further), meta(0o755), NewNode::Directory);
    assert!(matches!(placed, Err(TreeError::Depth)));
    tree.begin_layer();
    make_opaque(&mut tree, "");
    assert!(listing(&tree).is_empty());
    assert_eq!(tree.inode_count(), 1);
}

#[derive(Clone, Debug)]
enum Op {
    Directory(String),
    File(String, u32),
    Link { name: String, target: String },
    Whiteout(String),
    Opaque(String),
}

impl Op {
    fn is_whiteout(&self) -> bool {
        matches!(self, Op::Whiteout(_) | Op::Opaque(_))
    }

    /// Refused operations are left out, as the oracle leaves them out.
    fn apply(&self, tree: &mut TestTree, mode: u16) {
        let split = |whole: &str| {
            let (folder, name) = whole.rsplit_once('/').unwrap_or(("", whole));
            (folder.to_owned(), name.to_owned())
        };
        match self {
            Op::Directory(name) => drop(tree.place(&path(name), meta(mode), NewNode::Directory)),
            Op::File(name, data) => drop(tree.place(&path(name), meta(0), NewNode::File(*data))),
            Op::Link { name, target } => drop(link(tree, name, target)),
            Op::Whiteout(whole) => {
                let (folder, name) = split(whole);
                hide(tree, &folder, &name);
            }
            Op::Opaque(folder) => make_opaque(tree, folder),
        }
    }
}

/// An image as nothing but paths; `None` is a folder.
#[derive(Default)]
struct Oracle(BTreeMap<String, Option<u32>>);

impl Oracle {
    fn remove_below(&mut self, folder: &str) {
        self.0.retain(|name, _| !name.starts_with(&format!("{folder}/")));
    }

    /// Makes the folders above `name`; false when one of them is a file.
    fn folders(&mut self, name: &str) -> bool {
        let ends: Vec<usize> = name.match_indices('/').map(|(at, _)| at).collect();
        if ends.iter().any(|end| matches!(self.0.get(&name[..*end]), Some(Some(_)))) {
            return false;
        }
        for end in ends {
            self.0.entry(name[..end].to_owned()).or_insert(None);
        }
        true
    }

    fn put(&mut self, name: &str, node: Option<u32>) {
        if self.folders(name) {
            if !(node.is_none() && self.0.get(name) == Some(&None)) {
                self.remove_below(name);
            }
            self.0.insert(name.to_owned(), node);
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Directory(name) => self.put(name, None),
            Op::File(name, data) => self.put(name, Some(*data)),
            Op::Link { name, target } => {
                if let Some(Some(data)) = self.0.get(target).copied() {
                    self.put(name, Some(data));
                }
            }
            Op::Whiteout(name) => {
                self.remove_below(name);
                self.0.remove(name);
            }
            Op::Opaque(folder) => self.remove_below(folder),
        }
    }

    fn listing(&self) -> Vec<String> {
        let line = |(name, node): (&String, &Option<u32>)| match node {
            Some(data) => format!("{name}={data}"),
            None => format!("{name}/"),
        };
        let mut lines: Vec<String> = self.0.iter().map(line).collect();
        lines.sort();
        lines
    }
}

fn any_name() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"))
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any_name().prop_map(Op::Directory),
        4 => (any_name(), any::<u32>()).prop_map(|(name, data)| Op::File(name, data)),
        2 => (any_name(), any_name()).prop_map(|(name, target)| Op::Link { name, target }),
        1 => any_name().prop_map(Op::Whiteout),
        1 => any_name().prop_map(Op::Opaque),
    ]
}

/// Operations whose entries never get into each other's way: folders are `d*`, files are `f*`.
fn apart_op() -> impl Strategy<Value = Op> {
    let folder = || proptest::collection::vec("d[12]", 1..4).prop_map(|parts| parts.join("/"));
    let file = move || (folder(), "f[12]").prop_map(|(folder, name)| format!("{folder}/{name}"));
    prop_oneof![
        2 => folder().prop_map(Op::Directory),
        4 => (file(), any::<u32>()).prop_map(|(name, data)| Op::File(name, data)),
        1 => prop_oneof![folder(), file()].prop_map(Op::Whiteout),
        1 => folder().prop_map(Op::Opaque),
    ]
}

fn layers<O: Strategy<Value = Op>>(op: impl Fn() -> O) -> impl Strategy<Value = Vec<Vec<Op>>> {
    proptest::collection::vec(proptest::collection::vec(op(), 0..12), 1..4)
}

fn whiteouts_first(layer: &[Op]) -> Vec<Op> {
    let (mut first, rest): (Vec<Op>, Vec<Op>) = layer.iter().cloned().partition(Op::is_whiteout);
    first.extend(rest);
    first
}

fn build(layers: &[Vec<Op>]) -> TestTree {
    let mut tree = TestTree::new();
    for (mode, layer) in (1..).zip(layers) {
        tree.begin_layer();
        layer.iter().for_each(|op| op.apply(&mut tree, mode));
    }
    tree
}

fn listing_with_modes(tree: &TestTree) -> Vec<String> {
    let mode = |line: &String| {
        let Some(name) = line.strip_suffix('/') else { return 0 };
        let parts = name.split('/').map(str::as_bytes);
        let id = parts.fold(InodeId::ROOT, |at, part| tree.child(at, part).unwrap().inode);
        tree.inode(id).meta.mode
    };
    listing(tree).into_iter().map(|line| format!("{line} {}", mode(&line))).collect()
}

proptest! {
    #[test]
    fn tree_is_what_the_oracle_says(layers in layers(any_op)) {
        let layers: Vec<Vec<Op>> = layers.iter().map(|layer| whiteouts_first(layer)).collect();
        let tree = build(&layers);
        let mut oracle = Oracle::default();
        layers.iter().flatten().for_each(|op| oracle.apply(op));
        let mut actual = listing(&tree);
        actual.sort();
        prop_assert_eq!(actual, oracle.listing());
        assert_sound(&tree);
    }

    #[test]
    fn place_of_a_whiteout_in_its_layer_does_not_matter(layers in layers(apart_op)) {
        let in_order: Vec<Vec<Op>> = layers.iter().map(|layer| whiteouts_first(layer)).collect();
        let (tree, ordered) = (build(&layers), build(&in_order));
        prop_assert_eq!(listing_with_modes(&tree), listing_with_modes(&ordered));
        assert_sound(&tree);
    }
}
