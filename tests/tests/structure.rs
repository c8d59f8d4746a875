//! The shape of the source: who may use whom (ARCHITECTURE.md), a header in every file, and unsafe
//! code in its few places.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Rooms of the host, from the top: a room uses rooms further down and no others. Rooms of one
/// line do not know each other.
const HOST: [&[&str]; 4] =
    [&["cli"], &["engine"], &["image", "hypervisor", "guest", "storage"], &["sys"]];
/// Rooms of the agent.
const AGENT: [&[&str]; 7] = [
    &["boot", "input"],
    &["server"],
    &["supervisor"],
    &["storage", "cgroup", "container", "stdio", "guest", "archive"],
    &["mount", "network", "seccomp"],
    &["spec", "failure", "log"],
    &["sys"],
];
/// Rooms of the VMM; those of virtio are rooms of their own.
const VMM: [&[&str]; 10] = [
    &["process", "input"],
    &["jail", "control", "config", "event_loop", "machine", "vhost_user", "probe", TESTING],
    &["boot", "legacy", "virtio::mmio"],
    &[
        "virtio::balloon",
        "virtio::blk",
        "virtio::console",
        "virtio::fs",
        "virtio::mem",
        "virtio::net",
        "virtio::rng",
        "virtio::vsock",
    ],
    &["vsock"],
    &["virtio::device"],
    &["virtio::interrupt"],
    &["virtio::queue"],
    &["bus", "channel", "memory", "rate_limit", "signal"],
    &["layout"],
];
/// A driver's side, for tests and fuzzers.
const TESTING: &str = "virtio::testing";
/// Room whose folders are rooms.
const VIRTIO: &str = "virtio";
/// Files that put the rooms together.
const ROOTS: [&str; 3] = ["main", "lib", VIRTIO];
/// Where `unsafe` may stand: files, and folders with a slash at the end.
const UNSAFE: &[&str] = &[
    "host/src/sys/",
    "host/vmm/src/channel.rs",
    "host/vmm/src/jail/sys.rs",
    "host/vmm/src/jail/tests/sys.rs",
    "host/vmm/src/machine/kick.rs",
    "host/vmm/src/machine/kvm.rs",
    "host/vmm/src/memory/",
    "host/vmm/src/probe/",
    "host/vmm/src/process/descriptors.rs",
    "host/vmm/src/signal.rs",
    "host/vmm/src/vhost_user/",
    "host/vmm/src/virtio/blk/engine/",
    "host/vmm/src/virtio/blk/segments.rs",
    "host/vmm/src/virtio/net/tap.rs",
    "agent/src/sys/",
    "tests/bare-metal/",
    "tests/guest-inits/",
    "tests/src/bare_bed/held.rs",
    "tests/src/bare_bed/tap.rs",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file below a folder of the workspace, as its path from the workspace and its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = workspace();
    let mut found = Vec::new();
    collect(&root.join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty(), "no sources below {folder}");
    let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
    found.iter().map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect()
}

const CRATES: [&str; 8] = [
    "protocols/src",
    "agent/src",
    "host/src",
    "host/vmm/src",
    "rootfs-builder/src",
    "tests/src",
    "tests/bare-metal/src",
    "tests/guest-inits/src",
];

/// Every source of the workspace is below one of these.
const FOLDERS: [&str; 5] = ["agent", "host", "protocols", "rootfs-builder", "tests"];
/// As rustfmt breaks code, max_width.
const COLUMNS: usize = 100;

/// The text without comments: what is said of a room is no use of it.
fn code(text: &str) -> String {
    let line = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Paths of at most two names that a text has after `crate::`, with braces resolved.
fn paths_used(text: &str) -> Vec<Vec<String>> {
    let code = code(text);
    let mut used = Vec::new();
    for rest in code.split("crate::").skip(1) {
        expand(rest, &[], &mut used);
    }
    used
}

/// The paths that begin here, behind `before`. Returns what follows them.
fn expand<'a>(text: &'a str, before: &[String], used: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut list) = text.strip_prefix('{') {
        loop {
            list = list.trim_start_matches([',', ' ', '\n']);
            match list.strip_prefix('}') {
                Some(rest) => return rest,
                None if list.is_empty() => return list,
                None => {}
            }
            let rest = expand(list, before, used);
            // What follows a name (`as other`) is no path.
            list = rest.trim_start_matches(|c| c != ',' && c != '}');
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = [before, &[name.to_owned()]].concat();
    match rest.strip_prefix("::") {
        Some(rest) if path.len() < 2 => expand(rest, &path, used),
        // Deeper down, only the end of the braces counts.
        Some(rest) if rest.trim_start().starts_with('{') => {
            used.push(path);
            expand(rest, &[], &mut Vec::new())
        }
        _ => {
            used.push(path);
            rest
        }
    }
}

/// The room that a path leads to: virtio's own names are those of its devices' common part.
fn room_named(path: &[String]) -> String {
    match path {
        [first, second, ..] if first == VIRTIO && second.starts_with(char::is_lowercase) => {
            if second == "self" {
                "virtio::device".to_owned()
            } else {
                format!("{first}::{second}")
            }
        }
        [first, ..] if first == VIRTIO => "virtio::device".to_owned(),
        [first, ..] => first.clone(),
        [] => String::new(),
    }
}

/// The text without its tests, and with the names that virtio's rooms have for each other in full.
fn product(path: &str, text: &str) -> String {
    if path.split('/').any(|part| ["tests", "tests.rs", "testing", "testing.rs"].contains(&part)) {
        return String::new();
    }
    let text = text.split("mod tests {").next().unwrap_or_default();
    let inner = path.split_once("/virtio/").map_or(0, |(_, inner)| inner.matches('/').count());
    let supers = "super::".repeat(if path.ends_with("/mod.rs") { inner } else { inner + 1 });
    if path.contains("/virtio/") { text.replace(&supers, "crate::virtio::") } else { text.into() }
}

fn level(rooms: &[&[&str]], room: &str) -> Option<usize> {
    rooms.iter().position(|level| level.contains(&room))
}

/// The file or folder right below `folder` that a source belongs to.
fn room_of(folder: &str, path: &str) -> String {
    let inner = path.strip_prefix(folder).unwrap().trim_start_matches('/');
    let mut parts = inner.split('/').map(|part| part.trim_end_matches(".rs"));
    let room = parts.next().unwrap();
    match parts.next() {
        Some(second) if room == VIRTIO && second != "mod" => format!("{room}::{second}"),
        _ => room.to_owned(),
    }
}

/// Lines that break the order of `rooms` below `folder`.
fn offences(folder: &str, rooms: &[&[&str]], sources: &[(String, String)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, text) in sources {
        let room = room_of(folder, path);
        let Some(own) = level(rooms, &room) else { continue };
        let text = if rooms == VMM { product(path, text) } else { text.clone() };
        for used in paths_used(&text).iter().map(|path| room_named(path)) {
            if used != room && level(rooms, &used).is_some_and(|other| other <= own) {
                lines.push(format!("{path} uses crate::{used}"));
            }
        }
    }
    lines
}

#[test]
fn rooms_use_only_what_is_below_them() {
    let crates = [("host/src", &HOST[..]), ("host/vmm/src", &VMM[..]), ("agent/src", &AGENT[..])];
    for (folder, rooms) in crates {
        let sources = sources(folder);
        for room in rooms.concat() {
            let here = |(path, _): &(String, String)| room_of(folder, path) == room;
            assert!(sources.iter().any(here), "{folder} has no room {room}");
        }
        let unknown: Vec<String> = sources
            .iter()
            .map(|(path, _)| room_of(folder, path))
            .filter(|room| !ROOTS.contains(&room.as_str()) && level(rooms, room).is_none())
            .collect();
        assert!(unknown.is_empty(), "{folder}: rooms without a place in the order: {unknown:?}");
        let offences = offences(folder, rooms, &sources);
        assert!(offences.is_empty(), "{}", offences.join("\n"));
    }
}

#[test]
fn use_against_the_arrows_would_be_found() {
    let source = |path: &str, text: &str| vec![(path.to_owned(), text.to_owned())];
    for (path, text) in [
        ("host/src/image/mod.rs", "use crate::engine::Engine;"),
        ("host/src/image/store/mod.rs", "use crate::{sys::fd, storage::Template};"),
        ("host/src/sys/fd.rs", "let x = crate::guest::greet();"),
        ("host/src/engine/mod.rs", "use crate::{\n    guest::{Agent, Exit},\n    cli,\n};"),
    ] {
        assert_eq!(offences("host/src", &HOST, &source(path, text)).len(), 1, "{text}");
    }
    for (path, text) in [
        ("host/src/cli/mod.rs", "use crate::{engine, image::Image, sys};"),
        ("host/src/guest/mod.rs", "// like crate::engine\nuse crate::guest::x;"),
    ] {
        assert!(offences("host/src", &HOST, &source(path, text)).is_empty(), "{text}");
    }
}

#[test]
fn use_against_the_arrows_of_the_vmm_would_be_found() {
    let offences = |path: &str, text: &str| {
        offences("host/vmm/src", &VMM, &[(format!("host/vmm/src/{path}"), text.to_owned())])
    };
    for (path, text) in [
        ("virtio/net/tap.rs", "use crate::virtio::blk::Config;"),
        ("virtio/net/mod.rs", "use super::{Kind, mem::Device};"),
        ("virtio/blk/engine/ring.rs", "use super::super::super::net;"),
        ("virtio/queue.rs", "use super::Interrupt;"),
        ("vsock/device.rs", "use crate::{Memory, virtio::{self as v, queue::{a, b}, mmio}};"),
        ("memory/mod.rs", "use crate::virtio::Outcome;"),
        ("layout.rs", "use crate::bus;"),
        ("machine/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::event_loop::EventLoop;"),
    ] {
        assert!(!offences(path, text).is_empty(), "{path}: {text}");
    }
    for (path, text) in [
        ("process/mod.rs", "use crate::{jail::{self, filter}, virtio::{blk, net::{Mac, Tap}}};"),
        (
            "virtio/blk/device.rs",
            "use super::{core::{self}, mem};\nuse crate::virtio::{self, queue};",
        ),
        ("vsock/device.rs", "use crate::virtio::queue::{self, Limits};"),
        ("machine/tests.rs", "use crate::jail::filter;"),
        ("jail/mod.rs", "x\n#[cfg(test)]\nmod tests { use crate::process; }"),
    ] {
        assert!(offences(path, text).is_empty(), "{path}: {text}");
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let more = ["tests/tests", "tests/fuzz/targets", "agent/tests"];
    for folder in CRATES.iter().copied().chain(more) {
        for (path, text) in sources(folder) {
            assert!(text.starts_with("//! "), "{path} does not begin with its purpose");
        }
    }
}

#[test]
fn no_comment_is_wider_than_code() {
    let mut wide = Vec::new();
    for (path, text) in FOLDERS.iter().flat_map(|folder| sources(folder)) {
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("//") && line.chars().count() > COLUMNS {
                wide.push(format!("{path}:{number}: {line}"));
            }
        }
    }
    assert!(wide.is_empty(), "more than {COLUMNS} columns:\n{}", wide.join("\n"));
}

#[test]
fn unsafe_code_stands_in_its_few_places_and_says_why() {
    for folder in CRATES {
        for (path, text) in sources(folder) {
            let allowed = UNSAFE.iter().any(|place| path.starts_with(place));
            let opens = text.contains("allow(unsafe_code)");
            assert!(allowed || !opens, "{path} allows unsafe code");
            if !opens {
                continue;
            }
            let lines: Vec<&str> = text.lines().collect();
            for (index, line) in lines.iter().enumerate() {
                if !code(line).contains("unsafe {") {
                    continue;
                }
                let above = &lines[index.saturating_sub(8)..=index];
                let why = above.iter().any(|line| line.contains("SAFETY:"));
                assert!(why, "{path}:{}: unsafe without a SAFETY comment", index + 1);
            }
        }
    }
}

#[test]
fn crates_depend_as_the_design_has_it() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let needs = |name: &str| -> Vec<String> {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages.iter().find(|package| package["name"] == name);
        let package = package.unwrap_or_else(|| panic!("no crate {name}"));
        let names = package["dependencies"].as_array().unwrap().iter();
        names.map(|needed| needed["name"].as_str().unwrap().to_owned()).collect()
    };
    let forbid = |name: &str, forbidden: &[&str]| {
        let needs = needs(name);
        for needed in forbidden {
            assert!(!needs.iter().any(|other| other == needed), "{name} depends on {needed}");
        }
    };
    forbid("husk", &["husk-agent"]);
    forbid("husk-agent", &["husk", "husk-vmm"]);
    forbid("husk-vmm", &["oci-spec", "husk", "husk-agent", "husk-protocols", "ttrpc"]);
    forbid("husk-protocols", &["husk", "husk-agent", "husk-vmm", "oci-spec", "tokio"]);
}
