//! The end of the machine. There is no ACPI: a virtual machine monitor takes a reset for its
//! guest's end, and a triple fault is the shortest way to one.

use std::fs;

use nix::{
    sys::reboot::{RebootMode, reboot},
    unistd::sync,
};

/// How the kernel resets: Documentation/ABI/testing/sysfs-kernel-reboot.
const REBOOT_TYPE: &str = "/sys/kernel/reboot/type";

/// Writes everything back and ends the machine.
pub fn off() -> ! {
    sync();
    // Without this file the kernel command line decides (reboot=t).
    let _ = fs::write(REBOOT_TYPE, "triple");
    loop {
        // It does not return where it works; where it does not, there is nothing else to do.
        if reboot(RebootMode::RB_AUTOBOOT).is_err() {
            std::thread::park();
        }
    }
}
