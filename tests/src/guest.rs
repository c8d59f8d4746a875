//! Guest images that are not the real one: the real kernel, or none at all, with an /init of the
//! test's.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A program for the guest that the build made beside the agent: see tests/guest-inits.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn init_program(name: &str) -> PathBuf {
    let folder = std::env::var_os("HUSK_TEST_INITS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/test-inits"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is not there (make test builds it, or set HUSK_TEST_INITS)",
        path.display()
    );
    path
}

/// Writes a guest image into `folder`: the kernel of `real`, and an initramfs of `files`.
///
/// # Errors
/// Those of the file system.
pub fn write(folder: &Path, real: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    symlink(real.join("vmlinux"), folder.join("vmlinux"))?;
    fs::write(folder.join("initramfs.cpio"), cpio(files)?)
}

/// A cpio archive of executable files in the form "newc". Linux,
/// Documentation/driver-api/early-userspace/buffer-format.rst.
///
/// # Errors
/// A file of 4 GiB or more.
pub fn cpio(files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for (number, (name, content)) in files.iter().enumerate() {
        entry(&mut out, number + 1, 0o100_755, name, content)?;
    }
    entry(&mut out, 0, 0, "TRAILER!!!", b"")?;
    Ok(out)
}

fn entry(out: &mut Vec<u8>, inode: usize, mode: u32, name: &str, content: &[u8]) -> io::Result<()> {
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let (inode, name_size) = (inode & 0xffff, name.len() + 1);
    // Magic, inode, mode, owner, group, links, time, size, two devices of two numbers, length of
    // the name, checksum.
    write!(out, "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}", 0, 1)?;
    write!(out, "{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}", 0)?;
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
}
