//! `linux.devices`.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use super::{absolute, short};
use crate::spec::SpecError;

/// The kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceType {
    /// `b`.
    Block,
    /// `c` and `u`.
    Character,
    /// `p`.
    Fifo,
}

/// A node to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// Inside the container.
    pub path: PathBuf,
    /// Its kind.
    pub kind: DeviceType,
    /// 0 for a FIFO.
    pub major: u32,
    /// 0 for a FIFO.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a node has that says nothing of permissions: config.md, "Devices".
const DEFAULT_MODE: u32 = 0o666;

/// Reads the list.
///
/// # Errors
/// [`SpecError`] with the device's path.
pub fn read(list: &[LinuxDevice]) -> Result<Vec<DevicePlan>, SpecError> {
    list.iter().map(one).collect()
}

fn one(device: &LinuxDevice) -> Result<DevicePlan, SpecError> {
    let path = absolute("linux.devices", device.path().clone())?;
    let field = format!("linux.devices[{}]", short(&path.to_string_lossy()));
    if path.file_name().is_none() {
        return Err(SpecError::invalid(field, "names no file"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => DeviceType::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceType::Character,
        LinuxDeviceType::P => DeviceType::Fifo,
        LinuxDeviceType::A => {
            return Err(SpecError::invalid(field, "the type a is for device rules only"));
        }
    };
    let number = |name: &str, value: i64| {
        u32::try_from(value)
            .map_err(|_| SpecError::invalid(&field, format!("{name} {value} is out of range")))
    };
    let (major, minor) = match kind {
        DeviceType::Fifo => (0, 0),
        _ => (number("major", device.major())?, number("minor", device.minor())?),
    };
    Ok(DevicePlan {
        path,
        kind,
        major,
        minor,
        mode: device.file_mode().unwrap_or(DEFAULT_MODE) & 0o7777,
        uid: device.uid().unwrap_or_default(),
        gid: device.gid().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn device_that_leaves_the_root_or_has_no_number_is_refused() {
        for device in [
            json!({"path": "dev/x", "type": "c", "major": 1, "minor": 3}),
            json!({"path": "/dev/../../x", "type": "c", "major": 1, "minor": 3}),
            json!({"path": "/", "type": "c", "major": 1, "minor": 3}),
            json!({"path": "/dev/x", "type": "c", "major": -1, "minor": 3}),
            json!({"path": "/dev/x", "type": "a", "major": 1, "minor": 3}),
        ] {
            let device = serde_json::from_value(device).unwrap();
            assert!(matches!(one(&device), Err(SpecError::Invalid { .. })));
        }
    }
}
