//! Clocks: clock_gettime(2).

use nix::time::{ClockId, clock_gettime};

/// `clock boottime`: its seconds.
pub fn show(args: &[&str]) -> Result<String, String> {
    let clock = match args {
        ["boottime"] => ClockId::CLOCK_BOOTTIME,
        ["monotonic"] => ClockId::CLOCK_MONOTONIC,
        ["realtime"] => ClockId::CLOCK_REALTIME,
        _ => return Err(format!("{args:?}: no such clock")),
    };
    let time = clock_gettime(clock).map_err(|errno| errno.to_string())?;
    Ok(time.tv_sec().to_string())
}
