//! `hooks`.

use std::{path::PathBuf, time::Duration};

use oci_spec::runtime::{self, Hook};
use serde::{Deserialize, Serialize};

use super::{StatePlan, absolute, no_zero, short};
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
    /// `prestart`, which older specs have, and then `createRuntime`: in the guest's namespaces,
    /// before the container's root is entered.
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
}
