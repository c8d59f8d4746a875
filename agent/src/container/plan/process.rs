//! `process`: of a container, and of an exec.

use std::{collections::HashSet, path::PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities, PosixRlimit, PosixRlimitType, Process};
use serde::{Deserialize, Serialize};

use super::{Scheduling, absolute, no_zero, short};
use crate::{
    seccomp::Filter,
    spec::{SpecError, refuse, says},
    sys::terminal::WindowSize,
};

/// The user's process, up to its exec.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// A terminal of this size, `None` being the kernel's default.
    pub terminal: Option<Option<WindowSize>>,
    /// Who it runs as.
    pub user: UserPlan,
    /// Never empty.
    pub args: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: PathBuf,
    /// All empty when there are none.
    pub capabilities: Option<CapabilitySets>,
    /// At most one of each.
    pub limits: Vec<Limit>,
    /// Set-uid programs and file capabilities give nothing.
    pub no_new_privileges: Option<bool>,
    /// For /proc/self/oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// For security modules.
    pub labels: Labels,
    /// When and where it runs.
    pub scheduling: Scheduling,
    /// For personality(2). The container's, not read here.
    pub personality: Option<u32>,
    /// The system calls it may make. By the container's rules, not read here.
    pub filter: Option<Filter>,
}

/// `process.apparmorProfile` and `process.selinuxLabel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// A profile's name.
    pub apparmor: Option<String>,
    /// A security context.
    pub selinux: Option<String>,
}

/// `process.user`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPlan {
    /// Real, effective and saved.
    pub uid: u32,
    /// Real, effective and saved.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// The process's umask.
    pub umask: Option<u32>,
    /// `user[:[group][:more,groups]]` in names or numbers, looked up in the container's own
    /// /etc/passwd and /etc/group. Overrides uid and gid.
    pub name: Option<String>,
}

/// Capabilities as bits: bit n is the capability of number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// What an exec can ever give.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What passes through exec with a file's own inheritable set.
    pub inheritable: u64,
    /// What can be put in force.
    pub permitted: u64,
    /// What passes through exec by itself.
    pub ambient: u64,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// In force.
    pub soft: u64,
    /// Its ceiling.
    pub hard: u64,
}

impl ProcessPlan {
    /// Reads `process`.
    ///
    /// # Errors
    /// [`SpecError`] with the field's name.
    pub fn read(process: &Process) -> Result<Self, SpecError> {
        refuse("process.", &[("commandLine", says(process.command_line()))])?;
        let args = process.args().clone().unwrap_or_default();
        if args.first().is_none_or(String::is_empty) {
            return Err(SpecError::invalid("process.args", "names no command"));
        }
        args.iter().try_for_each(|arg| no_zero("process.args", arg))?;
        let env = process.env().clone().unwrap_or_default();
        env.iter().try_for_each(|variable| environment(variable))?;
        Ok(Self {
            terminal: process
                .terminal()
                .unwrap_or_default()
                .then(|| window(process))
                .transpose()?,
            user: user(process)?,
            args,
            env,
            cwd: absolute("process.cwd", process.cwd().clone())?,
            capabilities: process.capabilities().as_ref().map(CapabilitySets::read).transpose()?,
            limits: limits(process.rlimits().as_deref().unwrap_or_default())?,
            no_new_privileges: process.no_new_privileges(),
            oom_score_adj: oom_score_adj(process.oom_score_adj())?,
            labels: Labels::read(process)?,
            scheduling: Scheduling::read(process)?,
            personality: None,
            filter: None,
        })
    }
}

impl Labels {
    fn read(process: &Process) -> Result<Self, SpecError> {
        let label = |field: &str, text: &Option<String>| {
            let text = text.clone().filter(|text| !text.is_empty());
            no_zero(field, text.as_deref().unwrap_or_default()).map(|()| text)
        };
        Ok(Self {
            apparmor: label("process.apparmorProfile", process.apparmor_profile())?,
            selinux: label("process.selinuxLabel", process.selinux_label())?,
        })
    }

    /// Takes from a container what an exec does not say for itself.
    pub fn inherit(&mut self, from: &Self) {
        if self.apparmor.is_none() {
            self.apparmor.clone_from(&from.apparmor);
        }
        if self.selinux.is_none() {
            self.selinux.clone_from(&from.selinux);
        }
    }
}

fn environment(variable: &str) -> Result<(), SpecError> {
    no_zero("process.env", variable)?;
    match variable.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(()),
        // The value may be a secret: the message holds the name at most.
        _ => Err(SpecError::invalid("process.env", "has a variable without a name or value")),
    }
}

fn window(process: &Process) -> Result<Option<WindowSize>, SpecError> {
    let Some(size) = process.console_size() else { return Ok(None) };
    let side = |value: u64| {
        u16::try_from(value).map_err(|_| {
            SpecError::invalid("process.consoleSize", format!("{value} is out of range"))
        })
    };
    Ok(Some(WindowSize { rows: side(size.height())?, columns: side(size.width())? }))
}

fn user(process: &Process) -> Result<UserPlan, SpecError> {
    let user = process.user();
    let name = user.username().clone().filter(|name| !name.is_empty());
    no_zero("process.user.username", name.as_deref().unwrap_or_default())?;
    // (u32)-1 means "leave it" to setresuid(2).
    let ids = [user.uid(), user.gid()];
    if ids.iter().chain(user.additional_gids().iter().flatten()).any(|&id| id == u32::MAX) {
        return Err(SpecError::invalid("process.user", format!("{} is no id", u32::MAX)));
    }
    if user.umask().is_some_and(|umask| umask > 0o777) {
        return Err(SpecError::invalid("process.user.umask", "is more than 0777"));
    }
    Ok(UserPlan {
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        name,
    })
}

fn oom_score_adj(value: Option<i32>) -> Result<Option<i32>, SpecError> {
    match value {
        Some(value) if !(-1000..=1000).contains(&value) => {
            Err(SpecError::invalid("process.oomScoreAdj", format!("{value} is out of range")))
        }
        value => Ok(value),
    }
}

fn limits(list: &[PosixRlimit]) -> Result<Vec<Limit>, SpecError> {
    let mut limits: Vec<Limit> = Vec::with_capacity(list.len());
    for limit in list {
        let field = format!("process.rlimits[{}]", limit.typ());
        let resource = resource(limit.typ());
        if limits.iter().any(|other| other.resource == resource) {
            return Err(SpecError::invalid(field, "is there twice"));
        }
        if limit.soft() > limit.hard() {
            return Err(SpecError::invalid(field, "soft is above hard"));
        }
        limits.push(Limit { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(limits)
}

/// asm-generic/resource.h.
fn resource(limit: PosixRlimitType) -> u32 {
    match limit {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

impl CapabilitySets {
    fn read(capabilities: &LinuxCapabilities) -> Result<Self, SpecError> {
        let sets = Self {
            bounding: bits(capabilities.bounding().as_ref())?,
            effective: bits(capabilities.effective().as_ref())?,
            inheritable: bits(capabilities.inheritable().as_ref())?,
            permitted: bits(capabilities.permitted().as_ref())?,
            ambient: bits(capabilities.ambient().as_ref())?,
        };
        // capabilities(7), "Thread capability sets": the kernel would say no more than EPERM.
        let within = |name: &str, set: u64, name_of: &str, limit: u64| {
            if set & !limit == 0 {
                return Ok(());
            }
            let reason = format!("{name} has what {name_of} has not");
            Err(SpecError::invalid("process.capabilities", reason))
        };
        within("effective", sets.effective, "permitted", sets.permitted)?;
        within("ambient", sets.ambient, "permitted", sets.permitted)?;
        within("ambient", sets.ambient, "inheritable", sets.inheritable)?;
        within("inheritable", sets.inheritable, "bounding", sets.bounding)?;
        Ok(sets)
    }
}

fn bits(set: Option<&HashSet<Capability>>) -> Result<u64, SpecError> {
    set.into_iter().flatten().try_fold(0, |bits, capability| Ok(bits | bit(*capability)?))
}

fn bit(capability: Capability) -> Result<u64, SpecError> {
    let name = format!("CAP_{capability}");
    name.parse::<caps::Capability>().map(|capability| capability.bitmask()).map_err(|_| {
        SpecError::invalid("process.capabilities", format!("{} is unknown", short(&name)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(change: impl FnOnce(&mut Value)) -> Result<ProcessPlan, SpecError> {
        let mut process = json!({"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"});
        change(&mut process);
        super::super::parse_process(process.to_string().as_bytes())
    }

    #[test]
    fn every_capability_of_the_spec_has_its_number() {
        let names = [("CAP_CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("CAP_CHECKPOINT_RESTORE", 40)];
        for (name, number) in names {
            let plan = read(|process| process["capabilities"] = json!({"bounding": [name]}));
            assert_eq!(plan.unwrap().capabilities.unwrap().bounding, 1 << number, "{name}");
        }
        let all: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
        let plan = read(|process| process["capabilities"] = json!({"bounding": all})).unwrap();
        assert_eq!(plan.capabilities.unwrap().bounding, (1 << 41) - 1);
    }

    #[test]
    fn capabilities_beyond_their_ceiling_are_refused() {
        for sets in [
            json!({"effective": ["CAP_KILL"]}),
            json!({"ambient": ["CAP_KILL"], "permitted": ["CAP_KILL"]}),
            json!({"ambient": ["CAP_KILL"], "inheritable": ["CAP_KILL"]}),
            json!({"inheritable": ["CAP_KILL"]}),
        ] {
            let error = read(|process| process["capabilities"] = sets).unwrap_err();
            assert!(matches!(error, SpecError::Invalid { .. }), "{error}");
        }
    }

    #[test]
    fn unknown_capability_or_limit_is_refused_by_name() {
        let unknown = read(|process| process["capabilities"] = json!({"ambient": ["CAP_X"]}));
        let expected = SpecError::invalid("process.capabilities.ambient", "\"CAP_X\" is unknown");
        assert_eq!(unknown.unwrap_err(), expected);
        let limit = json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]);
        let unknown = read(|process| process["rlimits"] = limit);
        let expected = SpecError::invalid("process.rlimits.type", "\"RLIMIT_X\" is unknown");
        assert_eq!(unknown.unwrap_err(), expected);
    }

    #[test]
    fn limits_are_numbered_as_the_kernel_has_them() {
        let plan = read(|process| {
            process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]);
        });
        let expected = Limit { resource: 7, soft: 10, hard: 20 };
        assert_eq!(plan.unwrap().limits, [expected]);
    }

    #[test]
    fn process_that_makes_no_sense_is_refused() {
        let cases: [(&str, Value); 10] = [
            ("args", json!([])),
            ("args", json!([""])),
            ("args", json!(["a\u{0}b"])),
            ("cwd", json!("tmp")),
            ("env", json!(["=x"])),
            ("env", json!(["NOVALUE"])),
            ("oomScoreAdj", json!(1001)),
            ("rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}])),
            ("user", json!({"uid": 4_294_967_295_u32, "gid": 0})),
            ("user", json!({"uid": 0, "gid": 0, "umask": 4096})),
        ];
        for (field, value) in cases {
            let error = read(|process| process[field] = value).unwrap_err();
            assert!(matches!(error, SpecError::Invalid { .. }), "{field}: {error}");
        }
    }

    #[test]
    fn environment_in_a_message_holds_no_value() {
        let error = read(|process| process["env"] = json!(["=secret"])).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    fn names(bits: u64) -> Vec<String> {
        let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
        all.sort_unstable_by_key(caps::Capability::index);
        all.iter().filter(|one| one.bitmask() & bits != 0).map(ToString::to_string).collect()
    }

    proptest! {
        #[test]
        fn sets_within_each_other_are_read_to_the_bit(
            bounding in 0..1_u64 << 41, a in any::<u64>(), b in any::<u64>(),
        ) {
            let (inheritable, permitted) = (bounding & a, bounding & b);
            let (effective, ambient) = (permitted & !a, permitted & inheritable);
            let sets = json!({
                "bounding": names(bounding), "inheritable": names(inheritable),
                "permitted": names(permitted), "effective": names(effective),
                "ambient": names(ambient),
            });
            let plan = read(|process| process["capabilities"] = sets).unwrap();
            let expected =
                CapabilitySets { bounding, effective, inheritable, permitted, ambient };
            prop_assert_eq!(plan.capabilities, Some(expected));
        }

        #[test]
        fn any_name_of_a_capability_is_known_or_refused_with_it(name in "[A-Z_]{1,20}") {
            match read(|process| process["capabilities"] = json!({"bounding": [name.clone()]})) {
                Ok(plan) => prop_assert_ne!(plan.capabilities, Some(CapabilitySets::default())),
                Err(error) => prop_assert!(error.to_string().contains(&name), "{}", error),
            }
        }

        #[test]
        fn limits_are_read_as_they_are_or_refused(
            kind in prop::sample::select(vec!["RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_X"]),
            soft in any::<u64>(), hard in any::<u64>(), twice in any::<bool>(),
        ) {
            let limit = json!({"type": kind, "soft": soft, "hard": hard});
            let list = if twice { json!([limit, limit]) } else { json!([limit]) };
            let plan = read(|process| process["rlimits"] = list);
            let good = kind != "RLIMIT_X" && soft <= hard && !twice;
            prop_assert_eq!(plan.is_ok(), good);
            if let Ok(plan) = plan {
                prop_assert_eq!((plan.limits[0].soft, plan.limits[0].hard), (soft, hard));
            }
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = super::super::parse_process(&bytes);
        }
    }
}
