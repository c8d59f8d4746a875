//! Block devices by the serial that the host gave them.

use std::{
    fmt, fs,
    path::Path,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use super::StorageError;

const BLOCK: &str = "/sys/block";
/// `VIRTIO_BLK_ID_BYTES`, linux/virtio_blk.h.
const MAX_SERIAL: usize = 20;
/// How long a device may take to appear.
const DEADLINE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(5);

/// A serial that a device can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial(String);

impl FromStr for Serial {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if plain && (1..=MAX_SERIAL).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(())
        }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A block device, present.
#[derive(Debug)]
pub struct Device(String);

impl Device {
    /// Waits until a device has this serial. Blocks.
    ///
    /// # Errors
    /// [`StorageError::NoDevice`] after some seconds.
    pub fn find(serial: &Serial) -> Result<Self, StorageError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(device) = look(Path::new(BLOCK), serial) {
                return Ok(device);
            }
            if Instant::now() >= deadline {
                return Err(StorageError::NoDevice(serial.clone()));
            }
            thread::sleep(INTERVAL);
        }
    }

    /// The kernel's name: `vda`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its node.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/dev/{}", self.0)
    }
}

fn look(block: &Path, serial: &Serial) -> Option<Device> {
    let devices = fs::read_dir(block).ok()?.flatten();
    devices.filter_map(|device| device.file_name().into_string().ok()).find_map(|name| {
        let found = fs::read_to_string(block.join(&name).join("serial")).ok()?;
        (found.trim_end() == serial.0).then_some(Device(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_is_found_by_its_whole_serial() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "image-10\n"), ("vdb", "image-1"), ("loop0", "")] {
            fs::create_dir(block.path().join(name)).unwrap();
            fs::write(block.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(block.path().join("ram0")).unwrap();
        let name =
            |serial: &str| look(block.path(), &serial.parse().unwrap()).map(|device| device.path());
        assert_eq!(name("image-1").as_deref(), Some("/dev/vdb"));
        assert_eq!(name("image-10").as_deref(), Some("/dev/vda"));
        assert_eq!(name("image"), None);
    }

    #[test]
    fn serial_that_no_device_can_have_is_refused() {
        for text in ["", "has space", "123456789012345678901", "zero\0"] {
            assert!(text.parse::<Serial>().is_err(), "{text:?}");
        }
    }
}
