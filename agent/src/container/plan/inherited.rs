//! What all processes of a container have in common, an exec too unless it says otherwise: the
//! system calls they may make, `linux.personality`, and what an exec leaves out of its `process`.

use oci_spec::runtime::{Linux, LinuxPersonality, LinuxPersonalityDomain};

use super::{CapabilitySets, ProcessPlan, process::Limit};
use crate::{
    container::plan::{Labels, Scheduling},
    seccomp::{Listener, Profile},
    spec::SpecError,
};

/// linux/personality.h.
const PER_LINUX: u32 = 0;
const PER_LINUX32: u32 = 8;

/// A container's part in each of its processes.
#[derive(Debug)]
pub struct Inherited {
    profile: Profile,
    personality: Option<u32>,
    capabilities: Option<CapabilitySets>,
    no_new_privileges: Option<bool>,
    limits: Vec<Limit>,
    labels: Labels,
    scheduling: Scheduling,
}

impl Inherited {
    /// Reads it from a spec whose process was read.
    ///
    /// # Errors
    /// [`SpecError`] with the field's name.
    pub fn read(linux: Option<&Linux>, first: &ProcessPlan) -> Result<Self, SpecError> {
        let personality = linux.and_then(|linux| linux.personality().as_ref());
        Ok(Self {
            profile: Profile::read(linux.and_then(|linux| linux.seccomp().as_ref()))?,
            personality: personality.map(persona).transpose()?,
            capabilities: first.capabilities,
            no_new_privileges: first.no_new_privileges,
            limits: first.limits.clone(),
            labels: first.labels.clone(),
            scheduling: first.scheduling.clone(),
        })
    }

    /// Fills in what an exec does not say for itself.
    pub fn complete(&self, exec: &mut ProcessPlan) {
        exec.capabilities = exec.capabilities.or(self.capabilities);
        exec.no_new_privileges = exec.no_new_privileges.or(self.no_new_privileges);
        if exec.limits.is_empty() {
            exec.limits.clone_from(&self.limits);
        }
        exec.labels.inherit(&self.labels);
        exec.scheduling.inherit(&self.scheduling);
    }

    /// Puts a process that is complete under the container's rules.
    pub fn confine(&self, process: &mut ProcessPlan) {
        process.personality = self.personality;
        process.filter = self.profile.filter(process.capabilities.unwrap_or_default().bounding);
    }

    /// Who decides about system calls, where the spec wants somebody to.
    #[must_use]
    pub fn listener(&self) -> Option<&Listener> {
        self.profile.listener()
    }
}

fn persona(personality: &LinuxPersonality) -> Result<u32, SpecError> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        // The specification names none.
        return Err(SpecError::unsupported("linux.personality.flags"));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::parse_process, *};

    fn process(change: &Value) -> ProcessPlan {
        let mut process = json!({"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"});
        for (name, value) in change.as_object().unwrap() {
            process[name] = value.clone();
        }
        parse_process(process.to_string().as_bytes()).unwrap()
    }

    fn inherited(linux: &Value, first: &Value) -> Result<Inherited, SpecError> {
        let linux: Linux = serde_json::from_value(linux.clone()).unwrap();
        Inherited::read(Some(&linux), &process(first))
    }

    #[test]
    fn exec_has_what_it_says_and_the_rest_from_its_container() {
        let first = json!({
            "capabilities": {"bounding": ["CAP_KILL"]}, "noNewPrivileges": true,
            "apparmorProfile": "web", "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}],
        });
        let container = inherited(&json!({}), &first).unwrap();
        let mut silent = process(&json!({}));
        container.complete(&mut silent);
        assert_eq!(silent.capabilities.unwrap().bounding, 1 << 5);
        assert_eq!((silent.no_new_privileges, silent.limits.len()), (Some(true), 1));
        assert_eq!(silent.labels.apparmor.as_deref(), Some("web"));
        let mut own = process(&json!({"noNewPrivileges": false, "capabilities": {}}));
        container.complete(&mut own);
        assert_eq!(own.no_new_privileges, Some(false));
        assert_eq!(own.capabilities, Some(CapabilitySets::default()));
    }

    #[test]
    fn default_filter_is_by_the_processs_own_capabilities() {
        let container = inherited(&json!({}), &json!({})).unwrap();
        let mut plain = process(&json!({}));
        let mut privileged = process(&json!({"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}));
        container.confine(&mut plain);
        container.confine(&mut privileged);
        assert!(plain.filter.is_some());
        assert_ne!(plain.filter, privileged.filter);
    }

    #[test]
    fn personality_is_one_of_two_without_flags() {
        let personality = |value: Value| inherited(&json!({"personality": value}), &json!({}));
        assert_eq!(personality(json!({"domain": "LINUX32"})).unwrap().personality, Some(8));
        assert_eq!(personality(json!({"domain": "LINUX"})).unwrap().personality, Some(0));
        let flags = personality(json!({"domain": "LINUX", "flags": ["X"]})).unwrap_err();
        assert_eq!(flags, SpecError::unsupported("linux.personality.flags"));
    }
}
