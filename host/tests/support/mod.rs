//! A guest for the tests of the hypervisor: the project's kernel and an init of the tests' own.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use husk::hypervisor::{self, Choice, Disk, Vm, VmConfig};
use husk_vmm::vsock::VsockListener;

/// A translated guest on a busy machine takes seconds, and one of a KVM that only emulates most of
/// a minute.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(180);
const ANNOUNCE_PORT: u32 = 1024;
const JOB_PORT: u32 = 1025;

/// Which hypervisor the tests run on: `HUSK_TEST_HYPERVISOR`, or what husk chooses.
fn under_test() -> Choice {
    std::env::var("HUSK_TEST_HYPERVISOR").map_or(Choice::Auto, |word| word.parse().unwrap())
}

/// For machines whose KVM cannot run the product's.
fn test_kernel() -> Option<PathBuf> {
    let named = std::env::var_os("HUSK_TEST_KERNEL").map(PathBuf::from);
    named.filter(|_| under_test() == Choice::Kvm)
}

/// What a test needs of this machine, or why it cannot run.
pub fn kernel() -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = workspace.join("build/guest/vmlinux");
    let cached = std::env::home_dir().map(|home| home.join(".cache/husk/kernel/latest/vmlinux"));
    test_kernel()
        .into_iter()
        .chain([built])
        .chain(cached)
        .find(|path| path.is_file())
        .ok_or_else(|| "no guest kernel (make kernel)".to_owned())
}

/// The initramfs, built once for all tests of a process.
fn initramfs() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build_initramfs).clone()
}

fn build_initramfs() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir_in(target).map_err(|error| error.to_string())?;
    let init = folder.path().join("init");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--edition=2024", "--target=x86_64-unknown-linux-musl", "-Copt-level=s"])
        .args(["-Cpanic=abort", "-Cstrip=symbols", "-o"])
        .args([&init, &source])
        .output()
        .map_err(|error| format!("no rustc: {error}"))?;
    if !output.status.success() {
        return Err(format!("the guest's init: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let program = fs::read(&init).map_err(|error| error.to_string())?;
    let new = folder.path().join("initramfs.cpio");
    fs::write(&new, cpio(&program)).map_err(|error| error.to_string())?;
    // In one step: another run of the tests may be using it.
    let archive = target.join("hypervisor-test-initramfs.cpio");
    fs::rename(&new, &archive).map_err(|error| error.to_string())?;
    Ok(archive)
}

/// An archive with `/init`, in the "newc" format of cpio(5).
fn cpio(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, body) in [("init", 0o100_755, init), ("TRAILER!!!", 0, &[][..])] {
        let fields = [1, mode, 0, 0, 1, 0, body.len(), 0, 0, 0, 0, name.len() + 1, 0]
            .map(|n| format!("{n:08x}"));
        archive.extend_from_slice(b"070701");
        archive.extend_from_slice(fields.concat().as_bytes());
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(body);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// A guest that announced itself.
pub struct Guest {
    pub vm: Box<dyn Vm>,
    pub folder: tempfile::TempDir,
}

/// A configuration of a small guest, with its files in `folder`.
pub fn config(folder: &Path, disks: Vec<Disk>) -> Result<VmConfig, String> {
    Ok(VmConfig {
        kernel: kernel()?,
        initramfs: initramfs()?,
        kernel_args: vec![],
        // An emulated processor must not come across what another one is just patching.
        vcpus: if test_kernel().is_some() { 1 } else { 2 },
        memory_mib: 192,
        disks,
        guest_cid: 3,
        host_cid: 2,
        console_log: folder.join("console.log"),
    })
}

/// Starts a guest, or says why this machine has none. Panics when it does not come up.
pub fn boot(disks: impl FnOnce(&Path) -> Vec<Disk>) -> Result<Guest, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let disks = disks(folder.path());
    let config = config(folder.path(), disks)?;
    let husk = Path::new(env!("CARGO_BIN_EXE_husk"));
    let (hypervisor, _) =
        hypervisor::choose_with(under_test(), husk).map_err(|error| error.to_string())?;
    let mut vm = hypervisor.start(&config).unwrap();
    let announce = vm.vsock().listen(ANNOUNCE_PORT, 4).unwrap();
    let mut stream = accept(&announce, &mut *vm);
    let mut word = String::new();
    stream.read_to_string(&mut word).unwrap();
    assert_eq!(word, "up");
    Ok(Guest { vm, folder })
}

/// The guest's next connection.
pub fn accept(listener: &VsockListener, vm: &mut dyn Vm) -> UnixStream {
    match listener.accept(BOOT_DEADLINE) {
        Ok(Some(stream)) => stream,
        other => {
            let diagnosis = vm.diagnose();
            panic!("{other:?}: {diagnosis}\n{}", diagnosis.console.join("\n"));
        }
    }
}

impl Guest {
    /// A connection to a job of the guest's init.
    pub fn job(&self, name: u8) -> UnixStream {
        use std::io::Write;
        let mut stream = self.vm.vsock().connect(JOB_PORT).unwrap();
        stream.write_all(&[name]).unwrap();
        stream
    }

    /// What a job answers to no input.
    pub fn ask(&self, name: u8) -> String {
        let mut answer = String::new();
        self.job(name).read_to_string(&mut answer).unwrap();
        answer
    }
}
