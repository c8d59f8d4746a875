//! Values of `--mount`.

use super::bytes;
use crate::engine::record::TmpfsMount;

/// `type=tmpfs,target=/x,...`; other types are refused by name.
pub fn mount(text: &str) -> Result<TmpfsMount, String> {
    let mut mount = TmpfsMount::default();
    let mut kind = "volume";
    for field in text.split(',') {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let needed =
            || value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"));
        match key.to_ascii_lowercase().as_str() {
            "type" => kind = needed()?,
            "target" | "dst" | "destination" => needed()?.clone_into(&mut mount.target),
            "readonly" | "ro" => mount.read_only = boolean(key, value)?,
            "tmpfs-size" => mount.size_bytes = bytes(needed()?)?,
            "tmpfs-mode" => mount.mode = mode(needed()?)?,
            "source" | "src" if kind == "tmpfs" => {
                return Err("a tmpfs has no source".to_owned());
            }
            // Options of other types: the type is what is refused.
            _ if kind != "tmpfs" && text.contains("type=") && !text.contains("type=tmpfs") => {}
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    match kind {
        "tmpfs" if mount.target.is_empty() => Err("target is required".to_owned()),
        "tmpfs" => Ok(mount),
        "bind" | "volume" | "npipe" | "cluster" | "image" => {
            Err(format!("type={kind} is not supported yet, type=tmpfs is"))
        }
        other => Err(format!("mount type unknown: {other:?}")),
    }
}

fn boolean(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("invalid value for {key}: {other}")),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| (1..=0o7777).contains(mode));
    mode.ok_or_else(|| format!("invalid value for tmpfs-mode: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_has_dockers_options() {
        let parsed = mount("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=1770,ro").unwrap();
        let wanted = TmpfsMount {
            target: "/x".to_owned(),
            size_bytes: 1 << 20,
            mode: 0o1770,
            read_only: true,
        };
        assert_eq!(parsed, wanted);
    }

    #[test]
    fn what_is_no_tmpfs_is_refused() {
        for (bad, words) in [
            ("type=bind,src=/a,dst=/b", "type=bind is not supported yet"),
            ("source=a,target=/b", "'source"),
            ("target=/b", "type=volume is not supported yet"),
            ("type=tmpfs", "target is required"),
            ("type=tmpfs,target", "key=value"),
            ("type=tmpfs,target=/x,src=/y", "no source"),
            ("type=tmpfs,target=/x,bogus=1", "unexpected key 'bogus'"),
            ("type=tmpfs,target=/x,tmpfs-mode=9", "tmpfs-mode"),
            ("type=moon,target=/x", "mount type unknown"),
        ] {
            let error = mount(bad).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }
}
