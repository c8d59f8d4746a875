//! Values of `--device` and `--device-cgroup-rule`.

use crate::engine::record::Device;
use crate::engine::spec::devices;

/// `source[:path][:access]`.
pub fn device(text: &str) -> Result<Device, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, path, access) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, access] if devices::is_access(access) => (*source, *source, *access),
        [source, path] => (*source, *path, "rwm"),
        [source, path, access] => (*source, *path, *access),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if !devices::is_access(access) {
        return Err(format!("invalid device mode: {access}"));
    }
    for path in [source, path] {
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(format!("{path} is not an absolute path"));
        }
    }
    if devices::number(source).is_none() {
        return Err(format!(
            "{source}: no such device in the guest (a device of the host cannot be given to a \
             virtual machine yet)"
        ));
    }
    Ok(Device { source: source.to_owned(), path: path.to_owned(), access: access.to_owned() })
}

/// A rule of the device controller.
pub fn rule(text: &str) -> Result<String, String> {
    match devices::rule(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("invalid device cgroup format '{text}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_the_guests() {
        let fuse = device("/dev/fuse").unwrap();
        assert_eq!((fuse.path.as_str(), fuse.access.as_str()), ("/dev/fuse", "rwm"));
        let tun = device("/dev/net/tun:/dev/tap:rw").unwrap();
        assert_eq!((tun.path.as_str(), tun.access.as_str()), ("/dev/tap", "rw"));
        assert_eq!(device("/dev/fuse:r").unwrap().access, "r");
        for (bad, words) in [
            ("/dev/sda", "no such device in the guest"),
            ("/dev/fuse:/dev/x:q", "invalid device mode: q"),
            ("/dev/fuse:x", "not an absolute path"),
            ("/dev/fuse:/dev/../../x", "not an absolute path"),
            ("a:b:c:d", "invalid device specification"),
        ] {
            assert!(device(bad).unwrap_err().contains(words), "{bad}");
        }
        assert!(rule("c 1:3 rwm").is_ok());
        assert_eq!(rule("c 1").unwrap_err(), "invalid device cgroup format 'c 1'");
    }
}
