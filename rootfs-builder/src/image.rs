//! What is in the guest image, and how it reaches its folder: whole or not at all, file by file.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use husk_protocols::PROTOCOL_VERSION;

use crate::agent::{self, AgentError};
use crate::cpio::{Archive, CpioError};
use crate::kernel::{self, KernelError};
use crate::manifest::{FileDigest, Kernel, Manifest};

const MANIFEST_FORMAT: u32 = 1;
const VMLINUX: &str = "vmlinux";
const INITRAMFS: &str = "initramfs.cpio";
const MANIFEST: &str = "manifest.json";
/// Folders that the agent mounts on before it has a root of its own.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "run", "sys"];
/// kernel documentation, admin-guide/devices: 5, 1 is the system console.
const CONSOLE: (u32, u32) = (5, 1);

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The agent, a static x86-64 program.
    pub agent: PathBuf,
    /// A folder with `vmlinux`, `release` and `key`, as `kernel-config/build` makes it.
    pub kernel: PathBuf,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An input cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The input.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent cannot be the init of a guest.
    #[error("check agent {}", path.display())]
    Agent {
        /// The agent.
        path: PathBuf,
        /// What is wrong with it.
        source: AgentError,
    },
    /// The kernel cannot be booted directly.
    #[error("check kernel {}", path.display())]
    Kernel {
        /// The kernel.
        path: PathBuf,
        /// What is wrong with it.
        source: KernelError,
    },
    /// Release or key of the kernel is empty or has more than one line.
    #[error("check {}: not one line of text", path.display())]
    Line {
        /// The file.
        path: PathBuf,
    },
    /// An entry does not fit in the initramfs.
    #[error("write initramfs")]
    Archive(#[from] CpioError),
    /// The manifest has no form as JSON.
    #[error("write manifest")]
    Manifest(#[from] serde_json::Error),
    /// An output cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes `vmlinux`, `initramfs.cpio` and `manifest.json` into `out`, which is made when missing.
/// The manifest is written last. Blocks on the file system.
///
/// # Errors
/// [`BuildError`]; files that were there before stay as they were, or are replaced as a whole.
pub fn build(inputs: &Inputs, out: &Path) -> Result<Manifest, BuildError> {
    let agent = read(&inputs.agent)?;
    agent::check(&agent)
        .map_err(|source| BuildError::Agent { path: inputs.agent.clone(), source })?;
    let vmlinux = read_kernel(&inputs.kernel.join(VMLINUX))?;
    let initramfs = initramfs(&agent)?;
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        initramfs: FileDigest::of(INITRAMFS, &initramfs),
        agent: FileDigest::of("init", &agent),
        kernel: Kernel {
            file: FileDigest::of(VMLINUX, &vmlinux),
            release: read_line(&inputs.kernel.join("release"))?,
            config_key: read_line(&inputs.kernel.join("key"))?,
        },
    };
    let mut json = serde_json::to_vec_pretty(&manifest)?;
    json.push(b'\n');

    fs::create_dir_all(out).map_err(|source| BuildError::Write { path: out.to_owned(), source })?;
    write(&out.join(VMLINUX), &vmlinux)?;
    write(&out.join(INITRAMFS), &initramfs)?;
    write(&out.join(MANIFEST), &json)?;
    Ok(manifest)
}

/// The initramfs is not compressed: under an emulated processor, unpacking costs more than the
/// bytes that it saves.
fn initramfs(agent: &[u8]) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::default();
    for name in MOUNT_POINTS {
        archive.folder(name, 0o755)?;
    }
    // The kernel opens it as the standard streams of init, before anything is mounted.
    archive.character_device("dev/console", 0o600, CONSOLE)?;
    archive.file("init", 0o755, agent)?;
    archive.finish()
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    fs::read(path).map_err(|source| BuildError::Read { path: path.to_owned(), source })
}

fn read_kernel(path: &Path) -> Result<Vec<u8>, BuildError> {
    let bytes = read(path)?;
    kernel::check(&bytes).map_err(|source| BuildError::Kernel { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn read_line(path: &Path) -> Result<String, BuildError> {
    let bytes = read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.strip_suffix('\n').unwrap_or(&text);
    if line.is_empty() || line.contains(char::is_control) {
        return Err(BuildError::Line { path: path.to_owned() });
    }
    Ok(line.to_owned())
}

/// Replaces `path` as a whole: a VM that starts meanwhile reads the old file or the new one.
fn write(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    write_in(folder, path, bytes)
        .map_err(|source| BuildError::Write { path: path.to_owned(), source })
}

fn write_in(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use object::elf;

    use super::*;
    use crate::agent::tests::program;
    use crate::kernel::{PVH_ENTRY, tests::kernel};

    struct Fixture {
        folder: tempfile::TempDir,
        inputs: Inputs,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let inputs =
            Inputs { agent: folder.path().join("agent"), kernel: folder.path().join("kernel") };
        let program = program(elf::EM_X86_64, elf::ET_EXEC, elf::PT_LOAD);
        fs::create_dir(&inputs.kernel).unwrap();
        fs::write(&inputs.agent, &program).unwrap();
        fs::write(inputs.kernel.join("vmlinux"), kernel(PVH_ENTRY)).unwrap();
        fs::write(inputs.kernel.join("release"), "6.1.0-husk\n").unwrap();
        fs::write(inputs.kernel.join("key"), "0123abcd\n").unwrap();
        Fixture { folder, inputs }
    }

    fn one_line(error: &BuildError) -> String {
        error.source().map_or(error.to_string(), |source| format!("{error}: {source}"))
    }

    #[test]
    fn two_builds_are_identical_bit_for_bit() {
        let (first, second) = (fixture(), fixture());
        // The same content with another owner's habits: mode, time, folder.
        let agent = fs::File::options().write(true).open(&second.inputs.agent).unwrap();
        agent.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        agent.set_modified(std::time::UNIX_EPOCH).unwrap();
        let outs = [first.folder.path().join("out"), second.folder.path().join("other/place")];
        build(&first.inputs, &outs[0]).unwrap();
        build(&second.inputs, &outs[1]).unwrap();
        for name in [VMLINUX, INITRAMFS, MANIFEST] {
            let [one, two] = outs.each_ref().map(|out| fs::read(out.join(name)).unwrap());
            assert!(one == two, "{name} differs");
            assert!(!one.is_empty());
        }
    }

    #[test]
    fn manifest_has_versions_and_the_digests_of_the_files_beside_it() {
        let fixture = fixture();
        let out = fixture.folder.path().join("out");
        build(&fixture.inputs, &out).unwrap();
        let manifest: Manifest =
            serde_json::from_slice(&fs::read(out.join(MANIFEST)).unwrap()).unwrap();
        assert_eq!(manifest.protocol, PROTOCOL_VERSION);
        assert_eq!(manifest.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(manifest.kernel.release, "6.1.0-husk");
        assert_eq!(manifest.kernel.config_key, "0123abcd");
        for file in [&manifest.initramfs, &manifest.kernel.file] {
            assert_eq!(*file, FileDigest::of(&file.name, &fs::read(out.join(&file.name)).unwrap()));
        }
    }

    #[test]
    fn agent_is_in_the_initramfs_as_init() {
        let fixture = fixture();
        let agent = fs::read(&fixture.inputs.agent).unwrap();
        let archive = initramfs(&agent).unwrap();
        let name_at = archive.windows(5).position(|window| window == b"init\0").unwrap();
        let data_at = (name_at + 5).next_multiple_of(4);
        assert_eq!(&archive[data_at..data_at + agent.len()], agent);
    }

    #[test]
    fn agent_that_needs_a_loader_is_refused_in_one_line_and_nothing_is_written() {
        let fixture = fixture();
        let dynamic = program(elf::EM_X86_64, elf::ET_DYN, elf::PT_INTERP);
        fs::write(&fixture.inputs.agent, dynamic).unwrap();
        let out = fixture.folder.path().join("out");
        let error = one_line(&build(&fixture.inputs, &out).unwrap_err());
        assert!(error.contains("check agent") && error.contains("no loader"), "{error}");
        assert!(!error.contains('\n'));
        assert!(!out.exists());
    }

    #[test]
    fn compressed_kernel_and_empty_release_are_refused() {
        let fixture = fixture();
        let out = fixture.folder.path().join("out");
        fs::write(fixture.inputs.kernel.join("release"), "\n").unwrap();
        let error = build(&fixture.inputs, &out).unwrap_err();
        assert!(matches!(error, BuildError::Line { .. }), "{error}");
        fs::write(fixture.inputs.kernel.join("vmlinux"), [0x1f, 0x8b, 8, 0]).unwrap();
        let error = build(&fixture.inputs, &out).unwrap_err();
        assert!(matches!(error, BuildError::Kernel { .. }), "{error}");
    }

    #[test]
    fn missing_input_is_named() {
        let mut fixture = fixture();
        fixture.inputs.agent = fixture.folder.path().join("no-agent");
        let error = build(&fixture.inputs, fixture.folder.path()).unwrap_err();
        assert!(error.to_string().contains("no-agent"), "{error}");
    }
}
