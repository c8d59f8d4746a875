//! Devices of the guest that a container is given by name, and the rules of its device controller.

use serde_json::{Value, json};

use crate::engine::record::{Device, Security};

/// Devices that the guest's kernel has and that go by a fixed number
/// (Documentation/admin-guide/devices.txt), beside docker's default ones.
const DEVICES: [(&str, u32, u32); 11] = [
    ("/dev/fuse", 10, 229),
    ("/dev/net/tun", 10, 200),
    ("/dev/loop-control", 10, 237),
    ("/dev/hwrng", 10, 183),
    ("/dev/kmsg", 1, 11),
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Type, major and minor number of a device of the guest.
#[must_use]
pub fn number(path: &str) -> Option<(&'static str, u32, u32)> {
    if let Some(number) = path.strip_prefix("/dev/loop").and_then(|rest| rest.parse().ok()) {
        return (number < 8).then_some(("b", 7, number));
    }
    let found = DEVICES.iter().find(|(name, ..)| *name == path);
    found.map(|&(_, major, minor)| ("c", major, minor))
}

/// `linux.devices`; the guest of a privileged container has them all already.
pub fn nodes(security: &Security) -> Vec<Value> {
    let node = |device: &Device| {
        let (kind, major, minor) = number(&device.source)?;
        Some(json!({
            "path": device.path, "type": kind, "major": major, "minor": minor,
            "fileMode": 0o666, "uid": 0, "gid": 0,
        }))
    };
    security.devices.iter().filter_map(node).collect()
}

/// `linux.resources.devices`, where it is not what every container gets: no device, and docker's
/// default ones, which the agent allows by itself.
pub fn rules(security: &Security) -> Option<Value> {
    if security.privileged {
        return Some(json!([{ "allow": true, "access": "rwm" }]));
    }
    if security.devices.is_empty() && security.device_rules.is_empty() {
        return None;
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for device in &security.devices {
        let Some((kind, major, minor)) = number(&device.source) else { continue };
        rules.push(json!({
            "allow": true, "type": kind, "major": major, "minor": minor, "access": device.access,
        }));
    }
    rules.extend(security.device_rules.iter().filter_map(|text| rule(text)));
    Some(Value::from(rules))
}

/// A rule of `--device-cgroup-rule`; `None` is none. `*` is every number.
#[must_use]
pub fn rule(text: &str) -> Option<Value> {
    let parts: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = parts.as_slice() else { return None };
    let (major, minor) = numbers.split_once(':')?;
    let known = matches!(*kind, "a" | "b" | "c") && is_access(access);
    let mut rule = json!({ "allow": true, "type": kind, "access": access });
    for (field, text) in [("major", major), ("minor", minor)] {
        if text != "*" {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            rule[field] = json!(text.parse::<u32>().ok().filter(|_| digits)?);
        }
    }
    known.then_some(rule)
}

/// Whether a text is some of `rwm`.
#[must_use]
pub fn is_access(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.chars().all(|letter| "rwm".contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_the_guest_are_known_by_name() {
        assert_eq!(number("/dev/fuse"), Some(("c", 10, 229)));
        assert_eq!(number("/dev/loop3"), Some(("b", 7, 3)));
        for unknown in ["/dev/sda", "/dev/loop9", "/dev/loop", "fuse", "/dev/../dev/fuse"] {
            assert_eq!(number(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn rules_are_dockers() {
        assert_eq!(
            rule("c 10:* rw").unwrap(),
            json!({ "allow": true, "type": "c", "major": 10, "access": "rw" })
        );
        assert!(rule("a *:* rwm").is_some());
        for bad in ["", "c", "c 1:3", "x 1:3 r", "c 1:3 x", "c 1:3 rwmr", "c 1 r", "c +1:3 r"] {
            assert!(rule(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_said_of_devices_that_nobody_asked_for() {
        assert_eq!(rules(&Security::default()), None);
        let fuse = Device {
            source: "/dev/fuse".to_owned(),
            path: "/dev/f".to_owned(),
            access: "rw".to_owned(),
        };
        let security = Security { devices: vec![fuse], ..Security::default() };
        assert_eq!(
            rules(&security).unwrap(),
            json!([
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
            ])
        );
        assert_eq!(nodes(&security)[0]["path"], "/dev/f");
        let privileged = Security { privileged: true, ..security };
        assert_eq!(rules(&privileged).unwrap(), json!([{ "allow": true, "access": "rwm" }]));
    }
}
