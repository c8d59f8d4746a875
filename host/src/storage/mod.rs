//! Writable layers: sparse ext4 files made from a cached template. Knows no images, no VMs and no
//! containers: whoever needs a layer names its file.
//!
//! ```text
//! mke2fs (once per size and life) -> template in the cache -> sparse copy per container
//! ```
//!
//! The guest mounts the file and makes the overlay's folders in it. What the guest writes takes
//! space on the host as it is written.

mod copy;
mod mke2fs;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mke2fs::Mke2fs;

/// Size of a writable layer that nobody chose a size for.
pub const DEFAULT_SIZE_BYTES: u64 = 10 << 30;
/// Smallest size that leaves room beside the journal.
pub const MIN_SIZE_BYTES: u64 = 16 << 20;
/// Largest size that the host's common file systems hold in one file.
pub const MAX_SIZE_BYTES: u64 = 8 << 40;
/// What must stay free on the host beside what a new layer takes.
const SPARE_BYTES: u64 = 1 << 20;
/// Changes when templates of an older husk must not be used any more.
const TEMPLATE_VERSION: u32 = 1;

/// Why a writable layer could not be made or looked at.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The program that makes file systems is not installed.
    #[error("mke2fs not found in PATH, /sbin or /usr/sbin (install e2fsprogs)")]
    NoMke2fs,
    /// The program that makes file systems refused.
    #[error("make file system with {program}: {message}")]
    Mke2fs {
        /// The program.
        program: PathBuf,
        /// The last thing that it said.
        message: String,
    },
    /// A size that cannot be had.
    #[error(
        "storage size of {size_bytes} bytes is not between {MIN_SIZE_BYTES} and {MAX_SIZE_BYTES}"
    )]
    Size {
        /// The size asked for.
        size_bytes: u64,
    },
    /// The host's file system is full.
    #[error(
        "create {path}: no space left on device ({needed_bytes} bytes needed, {free_bytes} free)"
    )]
    NoSpace {
        /// The layer's file.
        path: PathBuf,
        /// Bytes that the new layer takes at once.
        needed_bytes: u64,
        /// Bytes that are free for this user.
        free_bytes: u64,
    },
    /// A file could not be made, written or read.
    #[error("{op} {path}")]
    Io {
        /// What was done.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
}

/// How long a layer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As long as its container, through many VMs, each of which may be killed.
    Kept,
    /// As long as one VM: nobody reads it afterwards, so it needs no journal.
    OneVm,
}

/// Where the program is that makes file systems.
///
/// # Errors
/// [`StorageError::NoMke2fs`].
pub fn find_mke2fs() -> Result<PathBuf, StorageError> {
    Mke2fs::find().map(Mke2fs::program).ok_or(StorageError::NoMke2fs)
}

/// The maker of writable layers.
#[derive(Clone, Debug)]
pub struct Template {
    cache: PathBuf,
    mke2fs: Mke2fs,
}

impl Template {
    /// Templates below `cache_dir`, which is created where it is missing.
    pub fn open(cache_dir: &Path) -> Result<Self, StorageError> {
        let mke2fs = Mke2fs::find().ok_or(StorageError::NoMke2fs)?;
        fs::create_dir_all(cache_dir).map_err(at("create folder", cache_dir))?;
        let template = Template { cache: cache_dir.to_owned(), mke2fs };
        if !template.leftovers().is_empty() {
            // Or somebody's who is at work: then they are gone once the lock is here.
            let _lock = template.lock()?;
            template.clear_leftovers();
        }
        Ok(template)
    }

    /// Makes an empty layer of `size_bytes` (rounded up to whole blocks) at `path`, where nothing
    /// must be yet. Blocks for a few milliseconds, or as long as mke2fs takes the first time. The
    /// file is not flushed to stable storage: what a crash of the host leaves of a new layer has
    /// nothing in it that anybody wrote.
    ///
    /// # Errors
    /// Nothing stays at `path` then.
    pub fn create(&self, path: &Path, size_bytes: u64, life: Life) -> Result<(), StorageError> {
        if !(MIN_SIZE_BYTES..=MAX_SIZE_BYTES).contains(&size_bytes) {
            return Err(StorageError::Size { size_bytes });
        }
        let template_path = self.template(size_bytes.next_multiple_of(4096), life)?;
        let template = File::open(&template_path).map_err(at("open", &template_path))?;
        let needed = allocated_bytes(&template).map_err(at("read", &template_path))? + SPARE_BYTES;
        check_space(path, needed)?;
        copy_to_new(&template, path)
    }

    /// The template of this size and life, made now if it is not there.
    fn template(&self, size_bytes: u64, life: Life) -> Result<PathBuf, StorageError> {
        let kind = match life {
            Life::Kept => "ext4",
            Life::OneVm => "ext4-one-vm",
        };
        let path = self.cache.join(format!("{kind}-v{TEMPLATE_VERSION}-{size_bytes}.img"));
        if path.is_file() {
            return Ok(path);
        }
        let _lock = self.lock()?;
        if !path.is_file() {
            self.make_template(&path, size_bytes, life)?;
        }
        Ok(path)
    }

    fn make_template(&self, path: &Path, size_bytes: u64, life: Life) -> Result<(), StorageError> {
        let file = tempfile::Builder::new().prefix(LEFTOVER_PREFIX).tempfile_in(&self.cache);
        let file = file.map_err(at("create template", path))?;
        file.as_file().set_len(size_bytes).map_err(at("create template", path))?;
        self.mke2fs.run(file.path(), life)?;
        file.as_file().sync_all().map_err(at("write template", path))?;
        file.persist(path).map_err(|error| at("write template", path)(error.error))?;
        Ok(())
    }

    /// Half-made templates of killed processes. Needs the lock, so nobody makes one now.
    fn clear_leftovers(&self) {
        for path in self.leftovers() {
            // They are in nobody's way but take space: an error is not worth a failure.
            let _ = fs::remove_file(path);
        }
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let is_leftover = |entry: &fs::DirEntry| {
            entry.file_name().as_encoded_bytes().starts_with(LEFTOVER_PREFIX.as_bytes())
        };
        let entries = fs::read_dir(&self.cache).into_iter().flatten().flatten();
        entries.filter(is_leftover).map(|entry| entry.path()).collect()
    }

    fn lock(&self) -> Result<File, StorageError> {
        let path = self.cache.join("lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(at("open", &path))?;
        loop {
            match lock.lock() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map(|()| lock).map_err(at("lock", &path)),
            }
        }
    }
}

/// Copies `template` to `path`, where nothing must be yet, and leaves nothing there on an error.
fn copy_to_new(template: &File, path: &Path) -> Result<(), StorageError> {
    let new = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    let new = new.map_err(at("create", path))?;
    copy::sparse(template, &new).map_err(|source| {
        // The error that is told is the first one.
        let _ = fs::remove_file(path);
        at("create", path)(source)
    })
}

const LEFTOVER_PREFIX: &str = ".new-";

/// Bytes that the layer at `path` takes on the host.
pub fn used_bytes(path: &Path) -> Result<u64, StorageError> {
    File::open(path).and_then(|file| allocated_bytes(&file)).map_err(at("read", path))
}

/// Source: stat(2), `st_blocks`: units of 512 bytes whatever the block size.
fn allocated_bytes(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

fn check_space(path: &Path, needed_bytes: u64) -> Result<(), StorageError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let stat = nix::sys::statvfs::statvfs(folder);
    let stat = stat.map_err(|error| at("create", path)(error.into()))?;
    let free_bytes = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free_bytes < needed_bytes {
        return Err(StorageError::NoSpace { path: path.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}

/// Names operation and file of a failed system call.
fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { op, path, source }
}
