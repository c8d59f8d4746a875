//! Resource limits: getrlimit(2).

use nix::sys::resource::{Resource, getrlimit};

/// `limit nofile`: soft and hard.
pub fn show(args: &[&str]) -> Result<String, String> {
    let resource = match args {
        ["nofile"] => Resource::RLIMIT_NOFILE,
        ["core"] => Resource::RLIMIT_CORE,
        ["nproc"] => Resource::RLIMIT_NPROC,
        _ => return Err(format!("{args:?}: no such limit")),
    };
    let (soft, hard) = getrlimit(resource).map_err(|errno| errno.to_string())?;
    Ok(format!("{soft} {hard}"))
}
