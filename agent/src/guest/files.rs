//! The host's files, for bind mounts. They are rewritten in place: a container that has one bound
//! sees the file, not its name.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use super::{GuestError, Result, short};

/// Where they lie. Made at boot.
pub const FOLDER: &str = "/run/husk/files";

/// A file of the host.
#[derive(Debug)]
pub struct HostFile {
    /// A single path component.
    pub name: String,
    /// Whole.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

impl HostFile {
    /// Looks at its name alone.
    ///
    /// # Errors
    /// [`GuestError::Invalid`].
    pub fn check(&self) -> Result<()> {
        component(&self.name).map(drop)
    }

    /// Writes it. Blocks.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn write(&self) -> Result<()> {
        self.write_below(Path::new(FOLDER))
    }

    fn write_below(&self, folder: &Path) -> Result<()> {
        let path = folder.join(component(&self.name)?);
        self.replace(&path).map_err(GuestError::call("write the host's file", short(&self.name)))
    }

    /// One write, as long as what was there before: a reader never sees the new text with the end
    /// of the old one, but at most with empty lines after it.
    fn replace(&self, path: &Path) -> io::Result<()> {
        let mode = self.mode & 0o7777;
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .open(path)?;
        // The mode of one that was there, and without the umask.
        out.set_permissions(fs::Permissions::from_mode(mode))?;
        let old_len = usize::try_from(out.metadata()?.len()).unwrap_or_default();
        if old_len <= self.content.len() {
            return out.write_all(&self.content);
        }
        let mut padded = self.content.clone();
        padded.resize(old_len, b'\n');
        out.write_all(&padded)?;
        out.set_len(self.content.len() as u64)
    }
}

fn component(name: &str) -> Result<PathBuf> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(part)), None) if !name.contains(['/', '\0']) => Ok(part.into()),
        _ => Err(GuestError::invalid("files", "a name must be a single path component")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn file_names_are_single_components() {
        for name in ["", ".", "..", "a/b", "/a", "a/", "./a", "a\0"] {
            assert!(component(name).is_err(), "{name:?}");
        }
        assert!(component("resolv.conf").is_ok());
    }

    #[test]
    fn files_are_rewritten_in_place_with_their_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let mut inodes = Vec::new();
        for content in ["long content", "short", "", "longer than all of them"] {
            let file = HostFile { name: "hosts".to_owned(), content: content.into(), mode: 0o640 };
            file.write_below(folder.path()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.mode() & 0o7777, 0o640);
            inodes.push(metadata.ino());
        }
        inodes.dedup();
        assert_eq!(inodes.len(), 1);
    }
}
