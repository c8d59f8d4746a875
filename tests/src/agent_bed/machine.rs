//! The VM itself.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use husk::hypervisor::{self, Choice, Disk, Vm, VmConfig};
use husk_protocols::{
    handshake::Hello,
    port::{ANNOUNCE_PORT, GUEST_CID, HOST_CID},
};
use husk_vmm::vsock::VsockHandle;

use super::images;

/// A translated guest on a busy machine takes seconds.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);
const MEMORY_MIB: u32 = 384;

/// How a VM differs from others.
#[derive(Debug, Clone)]
pub struct Options {
    /// Processors.
    pub vcpus: u32,
    /// For the kernel's command line.
    pub kernel_args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { vcpus: 1, kernel_args: Vec::new() }
    }
}

/// A guest that is up.
pub struct Machine {
    pub vsock: VsockHandle,
    pub connection: UnixStream,
    pub hello: Hello,
    pub console_log: PathBuf,
}

/// What `make build` has built, or what the environment names instead.
fn guest_file(variable: &str, name: &str) -> Result<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/guest").join(name);
    let path = std::env::var_os(variable).map_or(built, PathBuf::from);
    if path.is_file() { Ok(path) } else { bail!("no {} (make build)", path.display()) }
}

/// Boots. Everything the VM needs is written to `folder`.
pub fn start(folder: &Path, options: &Options) -> Result<Machine> {
    fs::create_dir_all(folder)?;
    let config = VmConfig {
        kernel: guest_file("HUSK_TEST_KERNEL", "vmlinux")?,
        initramfs: guest_file("HUSK_TEST_INITRAMFS", "initramfs.cpio")?,
        kernel_args: options.kernel_args.clone(),
        vcpus: options.vcpus,
        memory_mib: MEMORY_MIB,
        disks: disks(folder)?,
        guest_cid: GUEST_CID,
        host_cid: HOST_CID,
        console_log: folder.join("console.log"),
    };
    // The VM is killed when the thread that has started it ends; a test's own thread is too short.
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("vm".to_owned()).spawn(move || {
        let mut vm = match start_vm(&config) {
            Ok(vm) => vm,
            Err(error) => return drop(sender.send(Err(error))),
        };
        if sender.send(greet(&mut *vm, &config)).is_ok() {
            keep(&mut *vm);
        }
    })?;
    let machine = receiver.recv().map_err(|_| anyhow!("the thread of the VM has ended"))?;
    // The VMM has its disks open.
    images::remove(folder);
    machine
}

fn disks(folder: &Path) -> Result<Vec<Disk>> {
    let disk = |serial: &str, path: PathBuf, read_only| Disk {
        serial: serial.to_owned(),
        path,
        read_only,
        disposable: false,
    };
    Ok(vec![
        disk(images::IMAGE, images::busybox(folder)?, true),
        disk(images::HOSTILE_IMAGE, images::hostile(folder)?, true),
        disk(images::DISK, images::ext4(folder)?, false),
    ])
}

fn start_vm(config: &VmConfig) -> Result<Box<dyn Vm>> {
    let (hypervisor, _) = hypervisor::choose(Choice::Auto)?;
    Ok(hypervisor.start(config)?)
}

fn greet(vm: &mut dyn Vm, config: &VmConfig) -> Result<Machine> {
    let vsock = vm.vsock().clone();
    let listener = vsock.listen(ANNOUNCE_PORT, 1)?;
    let connection = match listener.accept(BOOT_DEADLINE) {
        Ok(Some(connection)) => connection,
        other => {
            let diagnosis = vm.diagnose();
            bail!("{other:?}: {diagnosis}\n{}", diagnosis.console.join("\n"));
        }
    };
    let hello = Hello::read_from(&connection).context("read the agent's hello")?;
    connection.set_nonblocking(true)?;
    Ok(Machine { vsock, connection, hello, console_log: config.console_log.clone() })
}

/// Holds the VM for as long as the process lives, and shows the console when it dies before.
fn keep(vm: &mut dyn Vm) {
    loop {
        thread::sleep(Duration::from_millis(200));
        if let Ok(Some(status)) = vm.try_wait() {
            let console = vm.diagnose().console.join("\n");
            eprintln!("the VM has ended with {status}; the end of its console:\n{console}");
            return;
        }
    }
}
