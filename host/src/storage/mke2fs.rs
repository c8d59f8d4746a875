//! The program that makes ext4 file systems, told everything that its configuration or the clock
//! would decide otherwise.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Life, StorageError};
use crate::sys::process::spawn_bound;

/// Folders to look in after `PATH`: it is not in every user's.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// All of them in Linux 6.1. No `resize_inode`: its reserved blocks are 4 MiB that would be
/// written to each layer.
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,\
    sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// Journal in MiB: small, because it is written over and over and stays allocated on the host;
/// there, because a VM may be killed at any time and its layer be used again.
const JOURNAL_MIB: &str = "size=8";
/// Journal of a file system below [`SMALL_BYTES`].
const SMALL_JOURNAL_MIB: &str = "size=4";
const SMALL_BYTES: u64 = 128 << 20;

const UUID: &str = "6875736b-0000-8000-8000-6c6179657200";
const HASH_SEED: &str = "6875736b-0000-8000-8000-736565640000";

/// An installed mke2fs.
#[derive(Clone, Debug)]
pub struct Mke2fs {
    program: PathBuf,
}

impl Mke2fs {
    /// Looks in `PATH` and the system's folders.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
        let mut programs = folders.map(|folder| folder.join("mke2fs"));
        programs.find(|program| program.is_file()).map(|program| Mke2fs { program })
    }

    /// Where it is.
    pub fn program(self) -> PathBuf {
        self.program
    }

    /// Another program of the same package.
    #[cfg(test)]
    pub fn sibling(&self, name: &str) -> PathBuf {
        self.program.with_file_name(name)
    }

    /// Makes a file system that fills `file`, all of whose bytes are zero. Blocks.
    pub fn run(&self, file: &Path, life: Life) -> Result<(), StorageError> {
        // The file is a hole: what is not written is zero, and the guest need not write it
        // either. Releases before 1.47 do not know that option; their guests fill the tables in
        // the background.
        let prezeroed = self.run_with(file, life, "assume_storage_prezeroed=1");
        prezeroed.or_else(|_| self.run_with(file, life, "lazy_itable_init=1,lazy_journal_init=1"))
    }

    fn run_with(&self, file: &Path, life: Life, init: &str) -> Result<(), StorageError> {
        let failed = |message| StorageError::Mke2fs { program: self.program.clone(), message };
        let bytes = file.metadata().map(|metadata| metadata.len());
        let bytes = bytes.map_err(|error| failed(error.to_string()))?;
        let journal = if bytes < SMALL_BYTES { SMALL_JOURNAL_MIB } else { JOURNAL_MIB };
        let extended = format!("{init},root_owner=0:0,nodiscard,hash_seed={HASH_SEED}");
        let features = match life {
            Life::Kept => format!("{FEATURES},has_journal"),
            Life::OneVm => FEATURES.to_owned(),
        };
        let journal: &[&str] = match life {
            Life::Kept => &["-J", journal],
            Life::OneVm => &[],
        };
        let mut command = Command::new(&self.program);
        command
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0"])
            .args(["-O", &features])
            .args(journal)
            .args(["-U", UUID, "-E", &extended])
            .arg(file)
            .env_clear()
            .env("MKE2FS_CONFIG", "/dev/null")
            .env("E2FSPROGS_FAKE_TIME", "1")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Whoever is killed meanwhile leaves nobody who writes.
        let output = spawn_bound(&mut command, &[]).and_then(Child::wait_with_output);
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        Err(failed(last.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned())))
    }
}
