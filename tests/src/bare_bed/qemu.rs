//! The same guests in QEMU's `microvm`: what a guest sees of honest devices must be the same there,
//! and what it costs is compared.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use husk::sys::process::spawn_bound;
use husk_vmm::vhost_user;
use husk_vmm::vsock::{self, Limits, VsockHandle};

use super::Setup;
use super::serial::Serial;
use super::setup::{GUEST_CID, HOST_CID, MAC};
use crate::guest::init_program;
use crate::wait::within;

/// A case that hangs is one that fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// What executes the guest in QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Its translator, which is everywhere.
    Tcg,
    /// KVM, with the processor `-cpu` names.
    Kvm {
        /// As QEMU names it.
        cpu: &'static str,
    },
}

/// A guest that ended in QEMU.
#[derive(Debug)]
pub struct InQemu {
    /// All that it wrote.
    pub serial: String,
    /// From the start of QEMU to the guest's first byte.
    pub first_byte: Option<Duration>,
}

/// Runs a guest to its end. `None` without QEMU. Its vsock device is husk's own, whose other side
/// is `host`'s before the guest's first instruction.
///
/// # Errors
/// Of the start of a process, what QEMU says when there is no guest, and of the vsock device.
pub fn run_in_qemu(
    setup: &Setup,
    accelerator: Accelerator,
    host: impl FnOnce(&VsockHandle),
) -> io::Result<Option<InQemu>> {
    let sockets = setup.vsock.then(UnixStream::pair).transpose()?;
    let (ours, theirs) = sockets.unzip();
    let config = vsock::Config {
        guest_cid: GUEST_CID.into(),
        host_cid: HOST_CID.into(),
        limits: Limits::default(),
    };
    let device = ours.map(|socket| vhost_user::serve(config, socket)).transpose()?;
    if let Some(device) = &device {
        host(device.handle());
    }
    let ended = run(setup, accelerator, theirs)?;
    if let Some(device) = device {
        device.join().map_err(io::Error::other)?;
    }
    Ok(ended)
}

fn run(
    setup: &Setup,
    accelerator: Accelerator,
    vsock: Option<UnixStream>,
) -> io::Result<Option<InQemu>> {
    let mut command = command(setup, accelerator)?;
    let mut keep = Vec::new();
    if let Some(tap) = &setup.tap {
        add_net(&mut command, tap.as_fd());
        keep.push(tap.as_fd());
    }
    if let Some(socket) = &vsock {
        add_vsock(&mut command, socket.as_fd(), setup.size.memory_mib);
        keep.push(socket.as_fd());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = match spawn_bound(&mut command, &keep) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        started => started?,
    };
    drop(vsock);
    let stdout = child.stdout.take().ok_or(io::ErrorKind::NotFound)?;
    let mut serial = Serial::read(stdout);
    if within(DEADLINE, || child.try_wait().ok().flatten()).is_none() {
        child.kill()?;
    }
    let text = serial.finish();
    let output = child.wait_with_output()?;
    if text.is_empty() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let first_byte = serial.first().map(|first| first.saturating_duration_since(began));
    Ok(Some(InQemu { serial: text, first_byte }))
}

fn command(setup: &Setup, accelerator: Accelerator) -> io::Result<Command> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config"]);
    command.args(["-display", "none", "-no-reboot", "-serial", "stdio"]);
    match accelerator {
        Accelerator::Tcg => command.args(["-accel", "tcg", "-cpu", "max"]),
        Accelerator::Kvm { cpu } => command.args(["-accel", "kvm", "-cpu", cpu]),
    };
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
    command.args(["-machine", "microvm,pit=on,pic=on,rtc=on,acpi=off,x-option-roms=off"]);
    command.args(["-m", &format!("{}M", setup.size.memory_mib)]);
    command.arg("-kernel").arg(init_program("bare-metal"));
    command.args(["-append", &format!("case={}", setup.case)]);
    if setup.rng {
        command.args(["-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng"]);
    }
    for (index, disk) in setup.disks.iter().enumerate() {
        let path = plain(&disk.path)?;
        let read_only = if disk.read_only { "on" } else { "off" };
        command.arg("-drive").arg(format!(
            "if=none,id=d{index},file={path},format=raw,discard=unmap,read-only={read_only}"
        ));
        let serial = &disk.serial;
        let device = format!("virtio-blk-device,drive=d{index},serial={serial},queue-size=256");
        command.arg("-device").arg(device);
    }
    Ok(command)
}

fn add_net(command: &mut Command, tap: BorrowedFd<'_>) {
    let fd = tap.as_raw_fd();
    command.arg("-netdev").arg(format!("tap,id=net,fd={fd},vhost=off"));
    command.arg("-device").arg(format!("virtio-net-device,netdev=net,mac={MAC}"));
}

/// The device reaches the guest's memory, which is therefore a file's.
fn add_vsock(command: &mut Command, socket: BorrowedFd<'_>, memory_mib: u32) {
    let size = format!("size={memory_mib}M");
    command.arg("-object").arg(format!("memory-backend-memfd,id=memory,{size},share=on,seal=on"));
    command.args(["-machine", "memory-backend=memory"]);
    command.arg("-chardev").arg(format!("socket,id=vsock,fd={}", socket.as_raw_fd()));
    command.args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
}

/// QEMU would take a comma for the start of an option.
fn plain(path: &Path) -> io::Result<&str> {
    let text = path.to_str().filter(|text| !text.contains(','));
    text.ok_or_else(|| io::Error::other("a path that QEMU misunderstands"))
}
