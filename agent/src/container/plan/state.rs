//! What others are told of a container: hooks on their standard input, and who decides about its
//! system calls.

use std::{collections::BTreeMap, path::Path};

use husk_protocols::id::ContainerId;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

/// Where a container is in its life, in the words of runtime.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its root is not entered yet.
    Creating,
    /// It waits for the user's program, which is next.
    Created,
    /// The user's program has begun.
    Running,
    /// It is gone.
    Stopped,
}

/// What a container's state always says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatePlan {
    /// Of its spec.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// The folder that holds its config.json.
    pub bundle: String,
    /// Of its spec.
    pub annotations: BTreeMap<String, String>,
}

/// What is told of a container: runtime.md, "State".
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    bundle: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl StatePlan {
    /// Of a container with this spec.
    #[must_use]
    pub fn new(id: &ContainerId, spec: &Spec, bundle: &Path) -> Self {
        let annotations = spec.annotations().iter().flatten();
        Self {
            oci_version: spec.version().clone(),
            id: id.to_string(),
            bundle: bundle.to_string_lossy().into_owned(),
            annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// The state. The pid is a process's, in the pid namespace of the reader.
    #[must_use]
    pub fn state(&self, status: Status, pid: Option<u32>) -> State<'_> {
        State {
            oci_version: &self.oci_version,
            id: &self.id,
            status,
            pid,
            bundle: &self.bundle,
            annotations: &self.annotations,
        }
    }

    /// The same as JSON.
    #[must_use]
    pub fn json(&self, status: Status, pid: Option<u32>) -> Vec<u8> {
        serde_json::to_vec(&self.state(status, pid)).expect("texts and numbers have a form in JSON")
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    proptest! {
        #[test]
        fn state_is_what_the_standard_says(
            id in "[a-z]{1,20}",
            version in ".{0,10}",
            annotations in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..4),
            pid in proptest::option::of(1_u32..i32::MAX.cast_unsigned()),
        ) {
            let state = StatePlan {
                oci_version: version.clone(),
                id: id.clone(),
                bundle: "/run/x".to_owned(),
                annotations: annotations.clone(),
            };
            for (status, word) in [
                (Status::Creating, "creating"),
                (Status::Created, "created"),
                (Status::Running, "running"),
                (Status::Stopped, "stopped"),
            ] {
                let json = state.json(status, pid);
                let read: runtime::State = serde_json::from_slice(&json).unwrap();
                prop_assert_eq!(read.version(), &version);
                prop_assert_eq!(read.id(), &id);
                prop_assert_eq!(read.status().to_string(), word);
                prop_assert_eq!(read.pid().map(i32::cast_unsigned), pid);
                prop_assert_eq!(read.bundle().to_str(), Some("/run/x"));
                let value: Value = serde_json::from_slice(&json).unwrap();
                prop_assert_eq!(value.get("pid").is_some(), pid.is_some());
                let told: BTreeMap<String, String> =
                    serde_json::from_value(value.get("annotations").cloned().unwrap_or_else(|| json!({}))).unwrap();
                prop_assert_eq!(&told, &annotations);
            }
        }
    }
}
