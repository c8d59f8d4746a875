//! The fragments of the guest kernel and the script that checks a finished configuration.
//! Compiles no kernel.

#![allow(clippy::unwrap_used, reason = "a test of its own, helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn kernel_config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-config")
}

fn fragments() -> Vec<PathBuf> {
    let root = kernel_config().join("fragments");
    let mut found = Vec::new();
    for folder in [root.clone(), root.join("x86_64")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "config") {
                found.push(path);
            }
        }
    }
    assert!(found.len() >= 6, "fragments: {found:?}");
    found
}

/// Name of the option that a line sets or turns off.
fn option(line: &str) -> Option<&str> {
    let turned_off = || line.strip_prefix("# ")?.strip_suffix(" is not set");
    let name = turned_off().or_else(|| Some(line.split_once('=')?.0))?;
    (name.starts_with("CONFIG_") && !name.contains(' ')).then_some(name)
}

fn verify(final_config: &str, fragment: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let (config, wanted) = (folder.path().join("config"), folder.path().join("net.config"));
    fs::write(&config, final_config).unwrap();
    fs::write(&wanted, fragment).unwrap();
    Command::new(kernel_config().join("verify")).arg(config).arg(wanted).output().unwrap()
}

#[test]
fn every_option_has_a_reason_on_the_line_above() {
    for path in fragments() {
        let text = fs::read_to_string(&path).unwrap();
        let mut above = "";
        for (number, line) in text.lines().enumerate() {
            let reason = above.starts_with("# ") && option(above).is_none();
            assert!(
                option(line).is_none() || reason,
                "{}:{}: no reason above {line}",
                path.display(),
                number + 1
            );
            above = line;
        }
    }
}

#[test]
fn no_option_is_in_two_places() {
    let mut seen = BTreeMap::new();
    for path in fragments() {
        for name in fs::read_to_string(&path).unwrap().lines().filter_map(option) {
            let before = seen.insert(name.to_owned(), path.clone());
            assert!(before.is_none(), "{name}: in {} and in {before:?}", path.display());
        }
    }
    assert!(seen.len() > 200, "only {} options found", seen.len());
}

#[test]
fn verify_accepts_a_configuration_that_has_all_that_was_asked_for() {
    let output = verify(
        "CONFIG_VETH=y\nCONFIG_NR_CPUS=64\n# CONFIG_WLAN is not set\nCONFIG_OTHER=y\n",
        "# Pairs of cards.\nCONFIG_VETH=y\nCONFIG_NR_CPUS=64\n# CONFIG_WLAN is not set\n\
         # CONFIG_ABSENT is not set\n",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn verify_names_every_option_that_was_lost_changed_or_turned_on() {
    let output = verify(
        "# CONFIG_VETH is not set\nCONFIG_NR_CPUS=8\nCONFIG_WLAN=y\nCONFIG_NET=y\n",
        "CONFIG_VETH=y\nCONFIG_NR_CPUS=64\n# CONFIG_WLAN is not set\nCONFIG_TUN=y\nCONFIG_NET=y\n",
    );
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    for (name, wanted, got) in [
        ("CONFIG_VETH", "y", "n"),
        ("CONFIG_NR_CPUS", "64", "8"),
        ("CONFIG_WLAN", "n", "y"),
        ("CONFIG_TUN", "y", "n"),
    ] {
        let line = format!("{name}: net.config asks for {wanted}, the final config has {got}");
        assert!(text.contains(&line), "{name} is not in: {text}");
    }
    assert!(!text.contains("CONFIG_NET:"), "{text}");
    assert!(text.contains("4 of 5 options"), "{text}");
}

#[test]
fn source_without_a_digest_and_with_a_wrong_one_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tarball = folder.path().join("linux.tar.xz");
    fs::write(&tarball, "not a kernel").unwrap();
    let build = |digest: Option<&str>| {
        let mut command = Command::new(kernel_config().join("build"));
        command.env("XDG_CACHE_HOME", folder.path()).env("KERNEL_TARBALL", &tarball);
        match digest {
            Some(digest) => command.env("KERNEL_SHA256", digest),
            None => command.env_remove("KERNEL_SHA256"),
        };
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(build(None).contains("KERNEL_SHA256 is not set"));
    let wrong = "0".repeat(64);
    let message = build(Some(&wrong));
    assert!(message.contains(&wrong) && message.contains("sha256 is"), "{message}");
    // Refused before anything was unpacked or built.
    let kernels = folder.path().join("husk/kernel");
    let leftovers: Vec<_> = fs::read_dir(kernels)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "sources")
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}
