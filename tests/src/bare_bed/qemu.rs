//! The same guests in QEMU's `microvm`: what a guest sees of honest devices must be the same there,
//! and what it costs is compared.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Setup;
use super::serial::Serial;
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

/// Runs a guest to its end. `None` without QEMU.
///
/// # Errors
/// Of the start of a process, and what QEMU says when there is no guest.
pub fn run_in_qemu(setup: &Setup, accelerator: Accelerator) -> io::Result<Option<InQemu>> {
    let mut command = command(setup, accelerator)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        started => started?,
    };
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

/// QEMU would take a comma for the start of an option.
fn plain(path: &Path) -> io::Result<&str> {
    let text = path.to_str().filter(|text| !text.contains(','));
    text.ok_or_else(|| io::Error::other("a path that QEMU misunderstands"))
}
