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
    /// Waits until there is a device of each of these serials; the answer is in their order. All
    /// are looked for at once, since the device is asked each time that its serial is read. Blocks.
    ///
    /// # Errors
    /// [`StorageError::NoDevice`] after some seconds.
    pub fn find<const N: usize>(serials: [&Serial; N]) -> Result<[Self; N], StorageError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let missing = match look(Path::new(BLOCK), serials) {
                Ok(devices) => return Ok(devices),
                Err(missing) => missing,
            };
            if Instant::now() >= deadline {
                return Err(StorageError::NoDevice(missing.clone()));
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

/// The devices, or the first serial that none has.
fn look<'a, const N: usize>(
    block: &Path,
    serials: [&'a Serial; N],
) -> Result<[Device; N], &'a Serial> {
    let mut found = [const { None }; N];
    for device in fs::read_dir(block).into_iter().flatten().flatten() {
        if found.iter().all(Option::is_some) {
            break;
        }
        let Ok(name) = device.file_name().into_string() else { continue };
        let Ok(own) = fs::read_to_string(block.join(&name).join("serial")) else { continue };
        for (slot, _) in
            found.iter_mut().zip(serials).filter(|(_, serial)| own.trim_end() == serial.0)
        {
            slot.get_or_insert_with(|| Device(name.clone()));
        }
    }
    let missing = found.iter().zip(serials).find(|(slot, _)| slot.is_none());
    if let Some((_, serial)) = missing {
        return Err(serial);
    }
    Ok(found.map(|device| device.expect("each was just looked at")))
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
        let [one, ten, none] =
            ["image-1", "image-10", "image"].map(|text| text.parse::<Serial>().unwrap());
        let paths = look(block.path(), [&one, &ten]).unwrap().map(|device| device.path());
        assert_eq!(paths, ["/dev/vdb", "/dev/vda"]);
        assert_eq!(look(block.path(), [&ten, &none]).unwrap_err(), &none);
    }

    #[test]
    fn serial_that_no_device_can_have_is_refused() {
        for text in ["", "has space", "123456789012345678901", "zero\0"] {
            assert!(text.parse::<Serial>().is_err(), "{text:?}");
        }
    }
}
