//! What could run virtual machines on this machine, and what to do about what cannot: for
//! `husk doctor`. Starts nothing but the probe.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use husk_vmm::probe;

use super::builtin::KVM;
use super::qemu;

/// For a device that opens and is no KVM.
pub(super) const NO_KVM_ADVICE: &str = "see what the kernel says of kvm: dmesg | grep -i kvm";

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it works.
    pub works: bool,
    /// What was found, for people.
    pub found: String,
    /// What to do about it; empty where nothing is to be done.
    pub advice: &'static str,
}

impl Finding {
    fn works(found: impl Into<String>) -> Self {
        Self { works: true, found: found.into(), advice: "" }
    }

    fn broken(found: impl Into<String>, advice: &'static str) -> Self {
        Self { works: false, found: found.into(), advice }
    }
}

/// What KVM is good for here. Blocks for milliseconds, at most for about a second.
#[must_use]
pub fn kvm() -> Finding {
    if let Err(finding) = kvm_device() {
        return finding;
    }
    match probe::probe() {
        verdict @ probe::Verdict::Usable => Finding::works(verdict.to_string()),
        verdict @ probe::Verdict::Emulated { .. } => Finding::broken(
            verdict.to_string(),
            "this machine is a virtual one without nested virtualization: turn that on where it is \
             configured; QEMU emulates until then",
        ),
        verdict @ probe::Verdict::Unavailable { .. } => {
            Finding::broken(verdict.to_string(), NO_KVM_ADVICE)
        }
    }
}

/// Opens KVM's device, and lets go of it.
///
/// # Errors
/// What was found instead.
pub fn kvm_device() -> Result<(), Finding> {
    device_at(Path::new(KVM))
}

fn device_at(device: &Path) -> Result<(), Finding> {
    // A link is as good as what it leads to.
    if fs::metadata(device).is_ok_and(|there| !there.file_type().is_char_device()) {
        let found = format!("{} is no device", device.display());
        return Err(Finding::broken(found, "remove it, then modprobe kvm_intel or kvm_amd"));
    }
    open_kvm(device).map(drop).map_err(|error| cannot_open(&error))
}

fn open_kvm(device: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(device)
}

fn cannot_open(error: &io::Error) -> Finding {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "usermod -aG kvm USER as root, then log in again; or another rule for who may open it"
        }
        io::ErrorKind::NotFound => {
            "turn virtualization on in the firmware, then modprobe kvm_intel or kvm_amd"
        }
        _ => "modprobe kvm_intel or kvm_amd",
    };
    Finding::broken(format!("open {KVM}: {error}"), advice)
}

/// Whether QEMU is installed.
#[must_use]
pub fn qemu() -> Finding {
    match qemu::find_program() {
        Ok(program) => Finding::works(program.display().to_string()),
        Err(error) => {
            // The error's own hint is in brackets.
            let text = error.to_string();
            let found = text.split(" (").next().unwrap_or_default().to_owned();
            Finding::broken(found, "apt-get install qemu-system-x86, if KVM does not work")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_that_cannot_be_opened_comes_with_what_to_do() {
        let missing = open_kvm(Path::new("/no/such/device")).unwrap_err();
        assert!(cannot_open(&missing).advice.contains("firmware"));
        let denied = cannot_open(&io::ErrorKind::PermissionDenied.into());
        assert!(!denied.works);
        assert!(denied.advice.contains("usermod -aG kvm"), "{denied:?}");
    }

    #[test]
    fn what_is_no_device_is_told_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [folder.path(), &file] {
            let finding = device_at(path).unwrap_err();
            assert_eq!(finding.found, format!("{} is no device", path.display()));
            assert!(finding.advice.starts_with("remove it"), "{finding:?}");
        }
        device_at(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn finding_about_kvm_has_words_and_advice_if_it_does_not_work() {
        let kvm = kvm();
        assert!(!kvm.found.is_empty());
        assert_eq!(kvm.works, kvm.advice.is_empty(), "{kvm:?}");
    }
}
