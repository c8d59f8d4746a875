//! `process.apparmorProfile` and `process.selinuxLabel`: told to the kernel before the exec that
//! they are for, through the guest's own /proc, since the container's may be anything.

use std::{fs, path::Path};

use nix::errno::Errno;

use super::{StageError, plan::Labels};

/// proc_pid_attr(5). There when the kernel has AppArmor.
const APPARMOR: &str = "/proc/self/attr/apparmor/exec";
const SELINUX: &str = "/proc/self/attr/exec";
/// Where selinuxfs would be mounted: made by SELinux when it is on.
const SELINUX_FS: &str = "/sys/fs/selinux";
/// What every process is without AppArmor.
const UNCONFINED: &str = "unconfined";

/// Sets what the caller's next exec brings.
///
/// # Errors
/// [`StageError::Kernel`] where the module is not there, [`StageError::Path`] where it does not
/// know the profile or label.
pub fn set(labels: &Labels) -> Result<(), StageError> {
    if let Some(profile) = &labels.apparmor {
        set_profile(profile)?;
    }
    if let Some(label) = &labels.selinux {
        if !Path::new(SELINUX_FS).exists() {
            let (field, option) = ("process.selinuxLabel", "CONFIG_SECURITY_SELINUX");
            return Err(StageError::Kernel { field, option });
        }
        write(SELINUX, label)?;
    }
    Ok(())
}

fn set_profile(profile: &str) -> Result<(), StageError> {
    if Path::new(APPARMOR).exists() {
        return write(APPARMOR, &format!("exec {profile}"));
    }
    if profile == UNCONFINED {
        return Ok(());
    }
    let (field, option) = ("process.apparmorProfile", "CONFIG_SECURITY_APPARMOR");
    Err(StageError::Kernel { field, option })
}

fn write(file: &'static str, text: &str) -> Result<(), StageError> {
    fs::write(file, text).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        StageError::path("write", file)(errno)
    })
}
