//! What is done about a spec that its reader does not take: a word that it does not know is refused
//! with its field, and what the specification has otherwise than the reader is put into the
//! reader's words. Looked at only after the reader has failed, so that a good spec pays nothing.

use oci_spec::runtime::{
    Arch, Capability, IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    PosixRlimitType,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::short;
use crate::spec::SpecError;

/// As `specs-go/config.go` of the runtime-spec has them, and the reader.
const FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];
/// All elements of a list.
const EACH: &str = "*";

type Known = fn(&Value) -> bool;

fn known<T: DeserializeOwned>(value: &Value) -> bool {
    // Anything but a text is the reader's to refuse.
    !value.is_string() || T::deserialize(value).is_ok()
}

const PROCESS: [(&str, Known); 8] = [
    ("capabilities.bounding.*", known::<Capability>),
    ("capabilities.effective.*", known::<Capability>),
    ("capabilities.inheritable.*", known::<Capability>),
    ("capabilities.permitted.*", known::<Capability>),
    ("capabilities.ambient.*", known::<Capability>),
    ("rlimits.*.type", known::<PosixRlimitType>),
    ("ioPriority.class", known::<IOPriorityClass>),
    ("scheduler.policy", known::<LinuxSchedulerPolicy>),
];
const SCHEDULER_FLAGS: &str = "scheduler.flags.*";
const LINUX: [(&str, Known); 6] = [
    ("personality.domain", known::<LinuxPersonalityDomain>),
    ("seccomp.defaultAction", known::<LinuxSeccompAction>),
    ("seccomp.architectures.*", known::<Arch>),
    ("seccomp.flags.*", known::<LinuxSeccompFilterFlag>),
    ("seccomp.syscalls.*.action", known::<LinuxSeccompAction>),
    ("seccomp.syscalls.*.args.*.op", known::<LinuxSeccompOperator>),
];

/// Puts a whole spec into the reader's words.
///
/// # Errors
/// [`SpecError`] with the field that has an unknown word, or `error` when nothing is found.
pub fn mend_spec(json: &[u8], error: &serde_json::Error) -> Result<Vec<u8>, SpecError> {
    let mut spec = parse(json, error)?;
    let mut changed = false;
    if let Some(process) = spec.get_mut("process") {
        changed = mend(process)?;
    }
    if let Some(linux) = spec.get("linux") {
        LINUX.iter().try_for_each(|(path, known)| check(linux, "linux", path, *known))?;
    }
    written(&spec, changed, error)
}

/// Puts `process`, for an exec, into the reader's words.
///
/// # Errors
/// As [`mend_spec`].
pub fn mend_process(json: &[u8], error: &serde_json::Error) -> Result<Vec<u8>, SpecError> {
    let mut process = parse(json, error)?;
    let changed = mend(&mut process)?;
    written(&process, changed, error)
}

fn unread(error: &serde_json::Error) -> SpecError {
    SpecError::Json(error.to_string())
}

fn parse(json: &[u8], error: &serde_json::Error) -> Result<Value, SpecError> {
    serde_json::from_slice(json).map_err(|_| unread(error))
}

fn written(value: &Value, changed: bool, error: &serde_json::Error) -> Result<Vec<u8>, SpecError> {
    if changed { serde_json::to_vec(value).map_err(|_| unread(error)) } else { Err(unread(error)) }
}

fn mend(process: &mut Value) -> Result<bool, SpecError> {
    PROCESS.iter().try_for_each(|(path, known)| check(process, "process", path, *known))?;
    let mut changed = false;
    let flags = process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        if let Some((_, word)) = FLAGS.iter().find(|(word, _)| flag == word) {
            *flag = Value::from(*word);
            changed = true;
        }
    }
    check(process, "process", SCHEDULER_FLAGS, known::<LinuxSchedulerFlag>)?;
    // The specification has it that an empty list is none.
    for list in ["initial", "final"] {
        let affinity = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut);
        if let Some(affinity) = affinity.filter(|lists| lists.get(list) == Some(&Value::from(""))) {
            affinity.remove(list);
            changed = true;
        }
    }
    Ok(changed)
}

fn check(value: &Value, name: &str, path: &str, known: Known) -> Result<(), SpecError> {
    let Some((part, rest)) = path.split_once('.').or(Some((path, ""))).filter(|_| !path.is_empty())
    else {
        if known(value) {
            return Ok(());
        }
        let word = value.as_str().unwrap_or_default();
        return Err(SpecError::invalid(name, format!("{:?} is unknown", short(word))));
    };
    if part == EACH {
        let mut list = value.as_array().into_iter().flatten();
        return list.try_for_each(|element| check(element, name, rest, known));
    }
    match value.get(part) {
        Some(value) => check(value, &format!("{name}.{part}"), rest, known),
        None => Ok(()),
    }
}
