//! From a seccomp profile as docker writes them to `linux.seccomp` of the runtime-spec. docker's
//! profiles hold rules for every machine and every set of capabilities; the runtime-spec's, which
//! are taken as they are, those of one container.

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The guest's kernel, for rules with `minKernel`.
const GUEST_KERNEL: (u32, u32) = (6, 1);
/// The guest's architecture, in the words of Go's and of libseccomp.
const GO_ARCH: &str = "amd64";
const SECCOMP_ARCH: &str = "SCMP_ARCH_X86_64";

/// A profile, docker's or the runtime-spec's.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Vec<String>,
    flags: Vec<String>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    arch_map: Vec<Architecture>,
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// `linux.seccomp` of the runtime-spec.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    default_action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    architectures: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener_metadata: Option<String>,
    syscalls: Vec<FilterRule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FilterRule {
    names: Vec<String>,
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Value>,
}

/// The filter that a profile is for a container with these capabilities.
///
/// # Errors
/// What is wrong with the profile.
pub fn filter(profile: &Value, capabilities: &[&str]) -> Result<Value, String> {
    let profile: Profile = serde_json::from_value(profile.clone()).map_err(|e| e.to_string())?;
    if profile.default_action.is_empty() {
        return Err("it has no defaultAction".to_owned());
    }
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use \
                    either 'architectures' or 'archMap'"
                .to_owned(),
        );
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls {
        syscalls.extend(rule.for_guest(capabilities)?);
    }
    let filter = Filter {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures: architectures(profile.architectures, profile.arch_map),
        flags: profile.flags,
        listener_path: profile.listener_path,
        listener_metadata: profile.listener_metadata,
        syscalls,
    };
    let filter = serde_json::to_value(filter).map_err(|error| error.to_string())?;
    // Words that the runtime-spec does not have are refused here and not in the guest.
    serde_json::from_value::<LinuxSeccomp>(filter.clone()).map_err(|error| error.to_string())?;
    Ok(filter)
}

fn architectures(named: Vec<String>, map: Vec<Architecture>) -> Vec<String> {
    let ours = map.into_iter().find(|entry| entry.architecture == SECCOMP_ARCH);
    match ours {
        Some(entry) => [entry.architecture]
            .into_iter()
            .chain(entry.sub_architectures.unwrap_or_default())
            .collect(),
        None => named,
    }
}

impl Rule {
    /// `None` for one that is not for this guest or these capabilities.
    fn for_guest(self, capabilities: &[&str]) -> Result<Option<FilterRule>, String> {
        let names =
            match (self.name.filter(|name| !name.is_empty()), self.names.unwrap_or_default()) {
                (Some(_), names) if !names.is_empty() => {
                    return Err(
                        "both 'name' and 'names' are specified in the seccomp profile, use \
                            either 'name' or 'names'"
                            .to_owned(),
                    );
                }
                (Some(name), _) => vec![name],
                (None, names) => names,
            };
        if let Some(excludes) = &self.excludes
            && excludes.any(capabilities)?
        {
            return Ok(None);
        }
        if let Some(includes) = &self.includes
            && !includes.all(capabilities)?
        {
            return Ok(None);
        }
        let args = self.args.unwrap_or_default();
        Ok(Some(FilterRule { names, action: self.action, errno_ret: self.errno_ret, args }))
    }
}

impl Condition {
    /// Whether everything that it names holds.
    fn all(&self, capabilities: &[&str]) -> Result<bool, String> {
        let arches = self.arches.as_deref().unwrap_or_default();
        let caps = self.caps.as_deref().unwrap_or_default();
        let arch = arches.is_empty() || arches.iter().any(|arch| arch == GO_ARCH);
        let has_all = caps.iter().all(|cap| capabilities.contains(&cap.as_str()));
        Ok(arch && has_all && self.kernel()?.unwrap_or(true))
    }

    /// Whether something that it names holds.
    fn any(&self, capabilities: &[&str]) -> Result<bool, String> {
        let arches = self.arches.as_deref().unwrap_or_default();
        let caps = self.caps.as_deref().unwrap_or_default();
        let arch = arches.iter().any(|arch| arch == GO_ARCH);
        let has_one = caps.iter().any(|cap| capabilities.contains(&cap.as_str()));
        Ok(arch || has_one || self.kernel()?.unwrap_or(false))
    }

    /// Whether the guest's kernel is new enough; `None` when nothing is said of it.
    fn kernel(&self) -> Result<Option<bool>, String> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let parse = |text: &str| {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        };
        let wanted = parse(text)
            .ok_or_else(|| format!("invalid kernel version: {text:?}, expected KERNEL.MAJOR"))?;
        Ok(Some(GUEST_KERNEL >= wanted))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(profile: &Value, capabilities: &[&str]) -> Vec<String> {
        let filter = filter(profile, capabilities).unwrap();
        let rules = filter["syscalls"].as_array().unwrap();
        let first = |rule: &Value| rule["names"][0].as_str().unwrap().to_owned();
        rules.iter().map(first).collect()
    }

    fn dockers() -> Value {
        let allow = |name: &str, more: Value| {
            let mut rule = json!({ "names": [name], "action": "SCMP_ACT_ALLOW" });
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "archMap": [
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] },
                { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
            ],
            "syscalls": [
                allow("read", json!({ "comment": "always" })),
                allow("ptrace", json!({ "includes": { "minKernel": "4.8" } })),
                allow("future", json!({ "includes": { "minKernel": "7.0" } })),
                allow("arm", json!({ "includes": { "arches": ["arm", "arm64"] } })),
                allow("arch_prctl", json!({ "includes": { "arches": ["amd64", "x32"] } })),
                allow("mount", json!({ "includes": { "caps": ["CAP_SYS_ADMIN"] } })),
                allow("clone", json!({
                    "args": [{ "index": 0, "value": 2_114_060_288, "op": "SCMP_CMP_MASKED_EQ" }],
                    "excludes": { "caps": ["CAP_SYS_ADMIN"], "arches": ["s390", "s390x"] },
                })),
                { "name": "old", "action": "SCMP_ACT_ALLOW", "args": null },
            ],
        })
    }

    #[test]
    fn rules_of_dockers_profile_are_chosen_by_machine_kernel_and_capabilities() {
        let profile = dockers();
        assert_eq!(names(&profile, &[]), ["read", "ptrace", "arch_prctl", "clone", "old"]);
        assert_eq!(
            names(&profile, &["CAP_SYS_ADMIN"]),
            ["read", "ptrace", "arch_prctl", "mount", "old"]
        );
        let filter = filter(&profile, &[]).unwrap();
        assert_eq!(filter["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
        assert_eq!(filter["defaultErrnoRet"], 1);
        assert_eq!(filter["syscalls"][3]["args"][0]["index"], 0);
    }

    #[test]
    fn profile_of_the_runtime_spec_is_taken_as_it_is() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 }],
        });
        assert_eq!(filter(&profile, &[]).unwrap(), profile);
    }

    #[test]
    fn profile_that_makes_no_sense_is_refused() {
        let both = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "archMap": [{ "architecture": "SCMP_ARCH_X86_64" }],
        });
        for (profile, word) in [
            (json!("x"), "invalid type"),
            (json!({}), "defaultAction"),
            (json!({ "defaultAction": "SCMP_ACT_NOPE" }), "SCMP_ACT_NOPE"),
            (both, "archMap"),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                { "name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW" },
            ] }),
                "'names'",
            ),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                { "names": ["b"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "new" } },
            ] }),
                "KERNEL.MAJOR",
            ),
        ] {
            let error = filter(&profile, &[]).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
