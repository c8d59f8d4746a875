//! The VM itself.

use std::{
    fs,
    io::Write as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
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
use tokio::sync::watch;

use super::images;
use crate::bed::husk_program;
use crate::hypervisor::{test_kernel, under_test};

/// A translated guest on a busy machine takes seconds.
const BOOT_DEADLINE: Duration = Duration::from_secs(240);
const MEMORY_MIB: u32 = 384;

/// How a VM differs from others.
#[derive(Debug, Clone)]
pub struct Options {
    /// Processors.
    pub vcpus: u32,
    /// For the kernel's command line.
    pub kernel_args: Vec<String>,
    /// Further EROFS images: serial and file.
    pub images: Vec<(&'static str, PathBuf)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { vcpus: 1, kernel_args: Vec::new(), images: Vec::new() }
    }
}

/// A guest that is up.
pub struct Machine {
    pub vsock: VsockHandle,
    pub connection: UnixStream,
    pub hello: Hello,
    pub console_log: PathBuf,
    pub life: Life,
}

/// Whether a guest is still there.
#[derive(Clone)]
pub struct Life {
    ended: watch::Receiver<Option<String>>,
    expected: Arc<AtomicBool>,
    plug: Arc<AtomicBool>,
}

impl Life {
    /// Waits for an end of the VM that nobody has asked for, and says how it came.
    pub async fn surprise(&self) -> String {
        let mut ended = self.ended.clone();
        let status = match ended.wait_for(Option::is_some).await {
            Ok(status) => status.clone().unwrap_or_default(),
            Err(_) => "the end of its thread".to_owned(),
        };
        if self.expected.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        status
    }

    /// Kills it, within a moment.
    pub fn pull_plug(&self) {
        self.plug.store(true, Ordering::Relaxed);
    }

    /// Its end will be no surprise.
    pub fn expect_end(&self) {
        self.expected.store(true, Ordering::Relaxed);
    }
}

/// What `make build` has built.
fn built(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/guest").join(name);
    if path.is_file() { Ok(path) } else { bail!("no {} (make build)", path.display()) }
}

/// The product's kernel, or the one that the built-in VMM is tested with.
fn kernel() -> Result<PathBuf> {
    match test_kernel() {
        Some(kernel) if under_test() == Choice::Kvm => Ok(kernel),
        _ => built("vmlinux"),
    }
}

/// Boots. Everything the VM needs is written to `folder`.
pub fn start(folder: &Path, options: &Options) -> Result<Machine> {
    fs::create_dir_all(folder)?;
    let config = VmConfig {
        kernel: kernel()?,
        initramfs: built("initramfs.cpio")?,
        kernel_args: options.kernel_args.clone(),
        vcpus: options.vcpus,
        memory_mib: MEMORY_MIB,
        disks: disks(folder, &options.images)?,
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
        let (tell, ended) = watch::channel(None);
        let expected = Arc::new(AtomicBool::new(false));
        let plug = Arc::new(AtomicBool::new(false));
        let life = Life { ended, expected: expected.clone(), plug: plug.clone() };
        if sender.send(greet(&mut *vm, &config, life)).is_ok() {
            keep(&mut *vm, &tell, &expected, &plug);
        }
    })?;
    let machine = receiver.recv().map_err(|_| anyhow!("the thread of the VM has ended"))?;
    // The VMM has its disks open.
    images::remove(folder);
    machine
}

fn disks(folder: &Path, images: &[(&'static str, PathBuf)]) -> Result<Vec<Disk>> {
    let disk = |serial: &str, path: PathBuf, read_only| Disk {
        serial: serial.to_owned(),
        path,
        read_only,
        disposable: false,
    };
    let mut disks = vec![
        disk(images::IMAGE, images::busybox(folder)?, true),
        disk(images::HOSTILE_IMAGE, images::hostile(folder)?, true),
        disk(images::DISK, images::ext4(folder)?, false),
    ];
    disks.extend(images.iter().map(|(serial, path)| disk(serial, path.clone(), true)));
    Ok(disks)
}

fn start_vm(config: &VmConfig) -> Result<Box<dyn Vm>> {
    let (hypervisor, _) = hypervisor::choose_with(under_test(), &husk_program())?;
    Ok(hypervisor.start(config)?)
}

fn greet(vm: &mut dyn Vm, config: &VmConfig, life: Life) -> Result<Machine> {
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
    Ok(Machine { vsock, connection, hello, console_log: config.console_log.clone(), life })
}

/// Holds the VM for as long as the process lives. When it ends before, shows the console, and tells
/// those who wait for something of it.
fn keep(
    vm: &mut dyn Vm,
    tell: &watch::Sender<Option<String>>,
    expected: &AtomicBool,
    plug: &AtomicBool,
) {
    let status = loop {
        thread::sleep(Duration::from_millis(100));
        if plug.load(Ordering::Relaxed) {
            // Its end is seen below.
            let _ = vm.kill();
        }
        if let Ok(Some(status)) = vm.try_wait() {
            break status.to_string();
        }
    };
    if !expected.load(Ordering::Relaxed) {
        let console = vm.diagnose().console.join("\n");
        // Not by a macro: those write into the output of the case that has started the VM, which is
        // shown only if that one fails. There is nobody to tell of a closed standard error.
        let _ = writeln!(
            std::io::stderr(),
            "the VM has ended with {status}; the end of its console:\n{console}"
        );
    }
    tell.send_replace(Some(status));
}
