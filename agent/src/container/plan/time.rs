//! `linux.timeOffsets`: time_namespaces(7).

use std::collections::HashMap;

use oci_spec::runtime::LinuxTimeOffset;

use super::{
    namespaces::{Kind, NamespaceList},
    short,
};
use crate::spec::SpecError;

const FIELD: &str = "linux.timeOffsets";
/// `KTIME_SEC_MAX`, linux/ktime.h: a clock holds nanoseconds in 63 bits.
const MAX_SECONDS: i64 = i64::MAX / NANOS_PER_SECOND;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Turns the offsets into lines for `/proc/PID/timens_offsets`.
///
/// # Errors
/// [`SpecError`]: a clock that has none, a number out of range, or no time namespace to be made.
pub fn read(
    offsets: Option<&HashMap<String, LinuxTimeOffset>>,
    list: &NamespaceList,
) -> Result<Vec<String>, SpecError> {
    let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else {
        return Ok(Vec::new());
    };
    if !list.is_new(Kind::Time) {
        return Err(SpecError::invalid(FIELD, "needs a new time namespace"));
    }
    let mut lines = offsets
        .iter()
        .map(|(clock, offset)| line(clock, offset))
        .collect::<Result<Vec<_>, SpecError>>()?;
    lines.sort();
    Ok(lines)
}

fn line(clock: &str, offset: &LinuxTimeOffset) -> Result<String, SpecError> {
    if !matches!(clock, "monotonic" | "boottime") {
        let reason = format!("{:?} is neither monotonic nor boottime", short(clock));
        return Err(SpecError::invalid(FIELD, reason));
    }
    let field = format!("{FIELD}[{clock}]");
    let (secs, nanosecs) =
        (offset.secs().unwrap_or_default(), offset.nanosecs().unwrap_or_default());
    if !(-MAX_SECONDS..=MAX_SECONDS).contains(&secs) {
        return Err(SpecError::invalid(field, format!("secs {secs} is out of range")));
    }
    if i64::from(nanosecs) >= NANOS_PER_SECOND {
        return Err(SpecError::invalid(field, format!("nanosecs {nanosecs} is a second or more")));
    }
    Ok(format!("{clock} {secs} {nanosecs}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read_with(offsets: Value, namespaces: Value) -> Result<Vec<String>, SpecError> {
        let namespaces: Vec<_> = serde_json::from_value(namespaces).unwrap();
        let offsets = serde_json::from_value(offsets).unwrap();
        read(Some(&offsets), &NamespaceList::read(&namespaces).unwrap())
    }

    #[test]
    fn offsets_become_lines() {
        let namespaces = json!([{"type": "mount"}, {"type": "time"}]);
        let offsets = json!({"monotonic": {"secs": -5, "nanosecs": 7}, "boottime": {"secs": 60}});
        assert_eq!(read_with(offsets, namespaces).unwrap(), ["boottime 60 0", "monotonic -5 7"]);
        assert!(read_with(json!({}), json!([{"type": "mount"}])).unwrap().is_empty());
    }

    #[test]
    fn offsets_that_make_no_sense_are_refused() {
        let new = json!([{"type": "mount"}, {"type": "time"}]);
        let joined = json!([{"type": "mount"}, {"type": "time", "path": "/proc/7/ns/time"}]);
        for (offsets, namespaces, part) in [
            (json!({"realtime": {"secs": 1}}), &new, "neither"),
            (json!({"monotonic": {"secs": i64::MAX}}), &new, "out of range"),
            (json!({"monotonic": {"nanosecs": 1_000_000_000}}), &new, "a second or more"),
            (json!({"boottime": {"secs": 1}}), &joined, "new time namespace"),
            (json!({"boottime": {"secs": 1}}), &json!([{"type": "mount"}]), "new time namespace"),
        ] {
            let error = read_with(offsets, namespaces.clone()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
