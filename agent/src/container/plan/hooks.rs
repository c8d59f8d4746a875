//! `hooks`, and the state that each is told on its standard input: runtime.md, "State".

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use oci_spec::runtime::{self, Hook};
use serde::{Deserialize, Serialize};

use super::{absolute, no_zero, short};
use crate::spec::SpecError;

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPlan {
    /// For messages: `hooks.KIND[INDEX] (PATH)`.
    pub name: String,
    /// In the root that its kind has.
    pub path: PathBuf,
    /// The name it is called by, and its arguments.
    pub args: Vec<String>,
    /// All of its environment.
    pub env: Vec<String>,
    /// How long it may run.
    pub timeout: Option<Duration>,
}

/// All hooks of a container, each kind in the order of the spec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookPlans {
    /// `prestart`, which older specs have, and then `createRuntime`: in the guest's namespaces, before
    /// the container's root is entered.
    pub create_runtime: Vec<HookPlan>,
    /// In the container's namespaces, before its root is entered.
    pub create_container: Vec<HookPlan>,
    /// In the container's namespaces and root, before the user's program.
    pub start_container: Vec<HookPlan>,
    /// In the guest's namespaces, after the user's program has begun.
    pub poststart: Vec<HookPlan>,
    /// In the guest's namespaces, after the container is gone.
    pub poststop: Vec<HookPlan>,
}

impl HookPlans {
    /// Reads `hooks`; nothing when there is none of any kind.
    ///
    /// # Errors
    /// [`SpecError`] with the hook's name.
    pub fn read(hooks: Option<&runtime::Hooks>) -> Result<Option<Self>, SpecError> {
        let Some(hooks) = hooks else { return Ok(None) };
        #[allow(deprecated, reason = "a spec may still have it")]
        let mut create_runtime = read("prestart", hooks.prestart())?;
        create_runtime.extend(read("createRuntime", hooks.create_runtime())?);
        let plans = Self {
            create_runtime,
            create_container: read("createContainer", hooks.create_container())?,
            start_container: read("startContainer", hooks.start_container())?,
            poststart: read("poststart", hooks.poststart())?,
            poststop: read("poststop", hooks.poststop())?,
        };
        Ok((plans != Self::default()).then_some(plans))
    }
}

fn read(kind: &str, list: &Option<Vec<Hook>>) -> Result<Vec<HookPlan>, SpecError> {
    let numbered = list.iter().flatten().enumerate();
    numbered.map(|(index, hook)| one(format!("hooks.{kind}[{index}]"), hook)).collect()
}

fn one(field: String, hook: &Hook) -> Result<HookPlan, SpecError> {
    let path = absolute(&format!("{field}.path"), hook.path().clone())?;
    let shown = path.to_string_lossy().into_owned();
    let mut args = hook.args().clone().unwrap_or_default();
    if args.is_empty() {
        args.push(shown.clone());
    }
    let env = hook.env().clone().unwrap_or_default();
    for (part, texts) in [("args", &args), ("env", &env)] {
        texts.iter().try_for_each(|text| no_zero(&format!("{field}.{part}"), text))?;
    }
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
            _ => {
                let reason = format!("{seconds} is not greater than zero");
                return Err(SpecError::invalid(format!("{field}.timeout"), reason));
            }
        },
    };
    Ok(HookPlan { name: format!("{field} ({})", short(&shown)), path, args, env, timeout })
}

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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
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
    /// The state as JSON. The pid is the first process's, in the pid namespace of the reader.
    #[must_use]
    pub fn json(&self, status: Status, pid: Option<u32>) -> Vec<u8> {
        let state = State {
            oci_version: &self.oci_version,
            id: &self.id,
            status,
            pid,
            bundle: &self.bundle,
            annotations: &self.annotations,
        };
        serde_json::to_vec(&state).expect("texts and numbers have a form in JSON")
    }
}

/// What the second stage runs, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageHooks {
    /// See [`HookPlans`].
    pub create_container: Vec<HookPlan>,
    /// See [`HookPlans`].
    pub start_container: Vec<HookPlan>,
    /// For their standard input.
    pub state: StatePlan,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn plans(hooks: Value) -> Result<Option<HookPlans>, SpecError> {
        HookPlans::read(Some(&serde_json::from_value(hooks).unwrap()))
    }

    #[test]
    fn prestart_comes_before_create_runtime() {
        let hooks = json!({
            "createRuntime": [{"path": "/b"}],
            "prestart": [{"path": "/a", "args": ["a", "b"], "env": ["A=1"], "timeout": 3}],
        });
        let plans = plans(hooks).unwrap().unwrap();
        let [first, second] = &plans.create_runtime[..] else { panic!("{plans:?}") };
        assert_eq!(first.name, "hooks.prestart[0] (/a)");
        assert_eq!(first.args, ["a", "b"]);
        assert_eq!(first.timeout, Some(Duration::from_secs(3)));
        assert_eq!(second.args, ["/b"], "the path is the name of what has none");
        assert!(second.env.is_empty());
    }

    #[test]
    fn empty_lists_ask_for_nothing() {
        assert_eq!(plans(json!({"prestart": [], "poststop": []})).unwrap(), None);
        assert_eq!(HookPlans::read(None).unwrap(), None);
    }

    #[test]
    fn hook_that_makes_no_sense_is_refused_by_its_name() {
        for (hook, part) in [
            (json!({"path": "relative"}), "hooks.poststop[0].path"),
            (json!({"path": "/a/../b"}), "hooks.poststop[0].path"),
            (json!({"path": "/a", "timeout": 0}), "hooks.poststop[0].timeout"),
            (json!({"path": "/a", "timeout": -1}), "hooks.poststop[0].timeout"),
            (json!({"path": "/a", "args": ["x\u{0}"]}), "hooks.poststop[0].args"),
            (json!({"path": "/a", "env": ["x\u{0}"]}), "hooks.poststop[0].env"),
        ] {
            let error = plans(json!({"poststop": [hook]})).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

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
