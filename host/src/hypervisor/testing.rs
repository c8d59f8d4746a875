//! For tests: a VM that can be configured, and programs played by a script.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::VmConfig;

/// A configuration whose files exist, and are empty, in the folder.
pub fn config() -> (TempDir, VmConfig) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, "").unwrap();
        path
    };
    let config = VmConfig {
        kernel: file("vmlinux"),
        initramfs: file("initramfs"),
        kernel_args: vec![],
        vcpus: 1,
        memory_mib: 64,
        disks: vec![],
        guest_cid: 3,
        host_cid: 2,
        console_log: folder.path().join("console.log"),
    };
    (folder, config)
}

/// A program in the folder that runs `script`.
pub fn program(folder: &TempDir, name: &str, script: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}
