//! The configuration of an image, as archives bring it. Knows no files.

use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

/// Reads a configuration. Where the specification wants a list, Go's builders write `null` for an
/// empty one: an image without layers has no `diff_ids`.
pub fn parse_config(bytes: &[u8]) -> serde_json::Result<ImageConfiguration> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    if let Some(diff_ids) = value.pointer_mut("/rootfs/diff_ids").filter(|ids| ids.is_null()) {
        *diff_ids = json!([]);
    }
    serde_json::from_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_unknown_fields_of_docker_are_read() {
        let config = json!({
            "architecture": "amd64", "os": "linux", "docker_version": "20", "history": null,
            "container_config": {"Hostname": "x"},
            "config": {
                "Env": null, "Cmd": null, "Entrypoint": null, "Volumes": null, "Labels": null,
                "ExposedPorts": null, "OnBuild": null, "User": "", "WorkingDir": "",
                "Healthcheck": {"Test": ["NONE"]},
            },
            "rootfs": {"type": "layers", "diff_ids": null},
        });
        let config = parse_config(config.to_string().as_bytes()).unwrap();
        assert!(config.rootfs().diff_ids().is_empty());
        assert!(config.config().as_ref().unwrap().cmd().is_none());
    }

    #[test]
    fn volumes_and_ports_are_lists_of_names() {
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let config = parse_config(config.to_string().as_bytes()).unwrap();
        let config = config.config().as_ref().unwrap();
        assert_eq!(config.volumes().as_deref(), Some(&["/data".to_owned()][..]));
        assert_eq!(config.exposed_ports().as_deref(), Some(&["80/tcp".to_owned()][..]));
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for bad in ["", "[]", "{}", r#"{"architecture":"amd64","os":"linux"}"#] {
            assert!(parse_config(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
