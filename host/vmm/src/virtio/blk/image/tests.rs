//! Descriptors that are disks, and those that are not.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use tempfile::TempDir;

use super::*;

fn folder_with(len: u64) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(len).unwrap();
    (folder, path)
}

fn refusal(file: File, read_only: bool) -> String {
    Image::new(OwnedFd::from(file), read_only).unwrap_err().to_string()
}

#[test]
fn file_of_whole_sectors_is_a_disk() {
    let (_folder, path) = folder_with(3 * 512);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert_eq!(Image::new(file.into(), false).unwrap().sectors(), 3);
    assert_eq!(Image::new(File::open(&path).unwrap().into(), true).unwrap().sectors(), 3);
}

#[test]
fn access_mode_has_to_be_enough() {
    let (_folder, path) = folder_with(512);
    assert!(refusal(File::open(&path).unwrap(), false).contains("not open for writing"));
    let only_writable = OpenOptions::new().write(true).open(&path).unwrap();
    assert!(refusal(only_writable, false).contains("not open for reading"));
    let by_name = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
    assert!(refusal(by_name, true).contains("not open for reading"));
}

#[test]
fn flags_that_break_a_disk_are_refused() {
    let (_folder, path) = folder_with(512);
    let appending = OpenOptions::new().read(true).append(true).open(&path).unwrap();
    assert!(refusal(appending, false).contains("O_APPEND"));
}

#[test]
fn what_is_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(File::open(folder.path()).unwrap(), true).contains("a folder"));
    assert!(refusal(File::open("/dev/null").unwrap(), true).contains("a character device"));
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    assert!(refusal(File::from(reader), true).contains("a pipe"));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(refusal(File::from(OwnedFd::from(socket)), true).contains("a socket"));
    let (_folder, path) = folder_with(512);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(Image::new(File::open(&link).unwrap().into(), true).unwrap().sectors(), 1);
    fs::remove_file(&link).unwrap();
}

#[test]
fn size_has_to_be_sectors() {
    let (_folder, path) = folder_with(0);
    assert!(refusal(File::open(&path).unwrap(), true).contains("empty"));
    let (_folder, path) = folder_with(513);
    assert!(refusal(File::open(&path).unwrap(), true).contains("513 bytes"));
}
