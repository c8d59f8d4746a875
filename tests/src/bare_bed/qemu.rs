//! The same guests in QEMU's `microvm`, translated: what a guest sees of honest devices must be the
//! same there.

use std::io;
use std::path::Path;
use std::process::{Command, Output};

use super::Setup;
use crate::guest::init_program;

/// A case that hangs is one that fails.
const DEADLINE_S: &str = "60";

/// Runs a guest to its end, and gives what it wrote. `None` without QEMU.
///
/// # Errors
/// Of the start of a process.
pub fn run_in_qemu(setup: &Setup) -> io::Result<Option<String>> {
    let mut command = Command::new("timeout");
    command.args([DEADLINE_S, "qemu-system-x86_64", "-nodefaults", "-no-user-config"]);
    command.args(["-display", "none", "-no-reboot", "-serial", "stdio", "-cpu", "max"]);
    command.args(["-accel", "tcg", "-global", "virtio-mmio.force-legacy=false"]);
    command.args(["-machine", "microvm,pit=on,pic=on,rtc=on,acpi=off,x-option-roms=off"]);
    command.args(["-m", &format!("{}M", setup.memory_mib)]);
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
    let output = match command.output() {
        Ok(Output { status, .. }) if status.code() == Some(127) => return Ok(None),
        other => other?,
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    if text.is_empty() && !errors.is_empty() {
        return Err(io::Error::other(errors.into_owned()));
    }
    Ok(Some(text))
}

/// QEMU would take a comma for the start of an option.
fn plain(path: &Path) -> io::Result<&str> {
    let text = path.to_str().filter(|text| !text.contains(','));
    text.ok_or_else(|| io::Error::other("a path that QEMU misunderstands"))
}
