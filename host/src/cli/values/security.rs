//! Values of the flags for a container's rights.

use crate::engine::record::{Seccomp, Security};
use crate::engine::spec::capabilities;

/// `--cap-add`, `--cap-drop`.
pub fn capability(text: &str) -> Result<String, String> {
    capabilities::normalize(text)
}

/// `--userns`.
pub fn userns(text: &str) -> Result<String, String> {
    match text {
        "host" => Ok(text.to_owned()),
        _ => {
            Err(format!("{text} is not supported yet: there is the guest's user namespace (host)"))
        }
    }
}

/// Puts one `--security-opt` into `security`. Reads a seccomp profile's file.
pub fn option(text: &str, security: &mut Security) -> Result<(), String> {
    let invalid = || format!("invalid --security-opt: {text:?}");
    // The colon is docker's older spelling.
    let (key, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    match (key, value) {
        ("no-new-privileges", None | Some("true" | "1")) => security.no_new_privileges = true,
        ("no-new-privileges", Some("false" | "0")) => security.no_new_privileges = false,
        ("systempaths", Some("unconfined")) => security.system_paths_unconfined = true,
        ("seccomp", Some("unconfined")) => security.seccomp = Seccomp::Unconfined,
        ("seccomp", Some("builtin")) => security.seccomp = Seccomp::Builtin,
        ("seccomp", Some(path)) => security.seccomp = profile(path)?,
        ("apparmor", Some("unconfined")) => security.apparmor_profile.clear(),
        ("apparmor", Some(name)) if !name.is_empty() => {
            name.clone_into(&mut security.apparmor_profile)
        }
        ("label", Some("disable")) => security.selinux_label.clear(),
        ("label", Some(part)) => label(part, &mut security.selinux_label).ok_or_else(invalid)?,
        _ => return Err(invalid()),
    }
    security.options.push(text.to_owned());
    Ok(())
}

fn profile(path: &str) -> Result<Seccomp, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("opening seccomp profile ({path}) failed: {error}"))?;
    let profile = serde_json::from_str(&text)
        .map_err(|error| format!("reading seccomp profile ({path}) failed: {error}"))?;
    Ok(Seccomp::Profile(profile))
}

/// One part of a label of SELinux, put into the usual one.
fn label(part: &str, label: &mut String) -> Option<()> {
    let (name, value) = part.split_once(':').filter(|(_, value)| !value.is_empty())?;
    if label.is_empty() {
        "system_u:system_r:container_t:s0".clone_into(label);
    }
    let mut parts: Vec<&str> = label.splitn(4, ':').collect();
    let index = ["user", "role", "type", "level"].iter().position(|known| *known == name)?;
    *parts.get_mut(index)? = value;
    *label = parts.join(":");
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Result<Security, String> {
        let mut security = Security::default();
        options.iter().try_for_each(|text| option(text, &mut security))?;
        Ok(security)
    }

    #[test]
    fn options_are_dockers() {
        let words = [
            "no-new-privileges",
            "seccomp=unconfined",
            "systempaths=unconfined",
            "apparmor:web",
            "label=type:web_t",
            "label=level:s0:c1,c2",
        ];
        let security = read(&words).unwrap();
        assert!(security.no_new_privileges && security.system_paths_unconfined);
        assert_eq!(security.seccomp, Seccomp::Unconfined);
        assert_eq!(security.apparmor_profile, "web");
        assert_eq!(security.selinux_label, "system_u:system_r:web_t:s0:c1,c2");
        assert_eq!(security.options, words);
        assert!(!read(&["no-new-privileges=false"]).unwrap().no_new_privileges);
        assert!(
            !read(&["no-new-privileges", "no-new-privileges:false"]).unwrap().no_new_privileges
        );
        assert_eq!(read(&["apparmor=unconfined", "label=disable"]).unwrap().apparmor_profile, "");
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (bad, words) in [
            ("bogus", "invalid --security-opt"),
            ("bogus=1", "invalid --security-opt"),
            ("no-new-privileges=maybe", "invalid --security-opt"),
            ("seccomp", "invalid --security-opt"),
            ("systempaths=some", "invalid --security-opt"),
            ("label=colour:red", "invalid --security-opt"),
            ("apparmor=", "invalid --security-opt"),
            ("seccomp=/no/such/file", "opening seccomp profile (/no/such/file) failed"),
        ] {
            let error = read(&[bad]).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }

    #[test]
    fn profile_that_is_no_json_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{").unwrap();
        let error = read(&[&format!("seccomp={}", file.path().display())]).unwrap_err();
        assert!(error.contains("reading seccomp profile"), "{error}");
    }
}
