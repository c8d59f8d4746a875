//! Reads `linux.seccomp`: refuses what makes no sense, by the field's name.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::{
    FLAG_SPEC_ALLOW, Filter, Listener, Profile, Program,
    compile::compile,
    multiplexed::other_way,
    numbers::Abi,
    policy::{Action, Comparison, Operator, Policy, Rule},
};
use crate::spec::SpecError;

/// linux/seccomp.h: `SECCOMP_FILTER_FLAG_*`.
const FLAG_LOG: u32 = 1 << 1;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;
/// linux/err.h.
const MAX_ERRNO: u32 = 4095;
const EPERM: u16 = 1;
/// Of a system call.
const MAX_ARGUMENTS: u8 = 6;
/// The call by which the second stage tells of the listener.
const TOLD_WITH: &str = "write";

/// Reads the field.
///
/// # Errors
/// [`SpecError`] with the field's name.
pub fn read(seccomp: &LinuxSeccomp) -> Result<Profile, SpecError> {
    let (action, errno) = (seccomp.default_action(), seccomp.default_errno_ret());
    let default = read_action(action, errno, "linux.seccomp.defaultErrnoRet")?;
    if default == Action::NOTIFY {
        let reason = "SCMP_ACT_NOTIFY cannot be the default: the listener could not be handed over";
        return Err(SpecError::invalid("linux.seccomp.defaultAction", reason));
    }
    let syscalls = seccomp.syscalls().as_deref().unwrap_or_default();
    let mut rules = Vec::with_capacity(syscalls.len());
    for (index, syscall) in syscalls.iter().enumerate() {
        read_syscall(syscall, &format!("linux.seccomp.syscalls[{index}]"), &mut rules)?;
    }
    let listens = rules.iter().any(|rule| rule.action == Action::NOTIFY);
    let listener = read_listener(seccomp, listens)?;
    if default == Action::ALLOW && rules.is_empty() {
        return Ok(Profile::Unconfined);
    }
    let abis = abis(seccomp.architectures().as_deref().unwrap_or_default());
    let instructions = compile(&Policy { default, abis, rules })
        .map_err(|error| SpecError::invalid("linux.seccomp", error.to_string()))?;
    let program = Program::new(&instructions);
    let flags = flags(seccomp.flags().as_deref(), listens);
    Ok(Profile::Own(Filter { program, flags, listens }, listener))
}

fn read_action(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    field: &str,
) -> Result<Action, SpecError> {
    use LinuxSeccompAction as Spec;
    if errno.is_some() && !matches!(action, Spec::ScmpActErrno | Spec::ScmpActTrace) {
        return Err(SpecError::invalid(field, format!("{action} has none")));
    }
    let limited = |limit| match errno.map(u16::try_from) {
        None => Ok(EPERM),
        Some(Ok(errno)) if u32::from(errno) <= limit => Ok(errno),
        Some(_) => Err(SpecError::invalid(field, format!("is more than {limit}"))),
    };
    Ok(match action {
        Spec::ScmpActKill | Spec::ScmpActKillThread => Action::KILL_THREAD,
        Spec::ScmpActKillProcess => Action::KILL_PROCESS,
        Spec::ScmpActTrap => Action::TRAP,
        Spec::ScmpActErrno => Action::errno(limited(MAX_ERRNO)?),
        Spec::ScmpActNotify => Action::NOTIFY,
        Spec::ScmpActTrace => Action::trace(limited(u32::from(u16::MAX))?),
        Spec::ScmpActLog => Action::LOG,
        Spec::ScmpActAllow => Action::ALLOW,
    })
}

fn read_syscall<'a>(
    syscall: &'a LinuxSyscall,
    field: &str,
    rules: &mut Vec<Rule<'a>>,
) -> Result<(), SpecError> {
    if syscall.names().is_empty() {
        return Err(SpecError::invalid(format!("{field}.names"), "is empty"));
    }
    let errno_field = format!("{field}.errnoRet");
    let action = read_action(syscall.action(), syscall.errno_ret(), &errno_field)?;
    let names: Vec<&str> = syscall.names().iter().map(String::as_str).collect();
    if action == Action::NOTIFY && names.contains(&TOLD_WITH) {
        let reason = format!(
            "SCMP_ACT_NOTIFY cannot be for {TOLD_WITH}: the listener could not be handed over"
        );
        return Err(SpecError::invalid(format!("{field}.action"), reason));
    }
    let args = syscall.args().as_deref().unwrap_or_default();
    let comparisons: Vec<Comparison> =
        args.iter().map(|arg| comparison(arg, field)).collect::<Result<_, _>>()?;
    if comparisons.is_empty() {
        rules.extend(names.iter().filter_map(|name| other_way(name)).map(|(name, first)| Rule {
            names: vec![name],
            action,
            comparisons: vec![first],
        }));
    }
    let mut seen = HashSet::new();
    if comparisons.iter().all(|comparison| seen.insert(comparison.argument)) {
        rules.push(Rule { names, action, comparisons });
    } else {
        // An argument that is named twice makes each comparison an alternative.
        rules.extend(comparisons.into_iter().map(|comparison| Rule {
            names: names.clone(),
            action,
            comparisons: vec![comparison],
        }));
    }
    Ok(())
}

fn comparison(arg: &LinuxSeccompArg, field: &str) -> Result<Comparison, SpecError> {
    use LinuxSeccompOperator as Spec;
    let argument = u8::try_from(arg.index())
        .ok()
        .filter(|&index| index < MAX_ARGUMENTS)
        .ok_or_else(|| SpecError::invalid(format!("{field}.args"), "has an index above 5"))?;
    let whole = |operator| Comparison { argument, mask: u64::MAX, operator, value: arg.value() };
    Ok(match arg.op() {
        Spec::ScmpCmpNe => whole(Operator::NotEqual),
        Spec::ScmpCmpLt => whole(Operator::Less),
        Spec::ScmpCmpLe => whole(Operator::LessOrEqual),
        Spec::ScmpCmpEq => whole(Operator::Equal),
        Spec::ScmpCmpGe => whole(Operator::GreaterOrEqual),
        Spec::ScmpCmpGt => whole(Operator::Greater),
        Spec::ScmpCmpMaskedEq => Comparison {
            argument,
            mask: arg.value(),
            operator: Operator::Equal,
            value: arg.value_two().unwrap_or_default() & arg.value(),
        },
    })
}

/// Those of other machines are as good as any that this one never runs.
fn abis(architectures: &[Arch]) -> Vec<Abi> {
    let mut abis = vec![Abi::X86_64];
    for (architecture, abi) in [(Arch::ScmpArchX86, Abi::X86), (Arch::ScmpArchX32, Abi::X32)] {
        if architectures.contains(&architecture) {
            abis.push(abi);
        }
    }
    abis
}

fn flags(flags: Option<&[LinuxSeccompFilterFlag]>, listens: bool) -> u32 {
    use LinuxSeccompFilterFlag as Spec;
    let Some(flags) = flags else { return FLAG_SPEC_ALLOW };
    flags.iter().fold(0, |all, flag| {
        all | match flag {
            Spec::SeccompFilterFlagLog => FLAG_LOG,
            Spec::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            // Of one who waits for a listener.
            Spec::SeccompFilterFlagWaitKillableRecv if listens => FLAG_WAIT_KILLABLE_RECV,
            // Nobody waits; and a process that loads a filter before its first instruction has one
            // thread, with nothing to synchronize.
            Spec::SeccompFilterFlagWaitKillableRecv | Spec::SeccompFilterFlagTsync => 0,
        }
    })
}

fn read_listener(seccomp: &LinuxSeccomp, listens: bool) -> Result<Option<Listener>, SpecError> {
    const PATH: &str = "linux.seccomp.listenerPath";
    let metadata = seccomp.listener_metadata().clone().filter(|text| !text.is_empty());
    let path = seccomp.listener_path().clone().filter(|path| !path.as_os_str().is_empty());
    let Some(path) = path else {
        if metadata.is_some() {
            let reason = "is there without a listenerPath";
            return Err(SpecError::invalid("linux.seccomp.listenerMetadata", reason));
        }
        if listens {
            return Err(SpecError::invalid(PATH, "is missing, and a rule has SCMP_ACT_NOTIFY"));
        }
        return Ok(None);
    };
    if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(SpecError::invalid(PATH, "is no absolute path"));
    }
    Ok(listens.then_some(Listener { path, metadata }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Profile, SpecError> {
        super::read(&serde_json::from_value(value).unwrap())
    }

    fn invalid(value: Value) -> String {
        match read(value) {
            Err(SpecError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn profile_that_allows_all_without_a_rule_is_no_filter() {
        let profile = read(json!({"defaultAction": "SCMP_ACT_ALLOW"})).unwrap();
        assert_eq!(profile, Profile::Unconfined);
        assert_eq!(profile.filter(0), None);
        let logged = read(json!({"defaultAction": "SCMP_ACT_LOG"})).unwrap();
        assert!(logged.filter(0).is_some());
    }

    #[test]
    fn flags_are_the_kernels_and_need_their_use() {
        let flags = |flags: Value| {
            let profile = read(json!({"defaultAction": "SCMP_ACT_LOG", "flags": flags})).unwrap();
            profile.filter(0).unwrap().flags
        };
        assert_eq!(flags(json!(null)), 4);
        assert_eq!(flags(json!([])), 0);
        assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"])), 2);
        assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), 0);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]});
        let errno = json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1});
        assert_eq!(invalid(errno), "linux.seccomp.defaultErrnoRet");
        let notify = json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/s"});
        assert_eq!(invalid(notify), "linux.seccomp.defaultAction");
        for (value, field) in [
            (json!({"names": [], "action": "SCMP_ACT_ALLOW"}), "names"),
            (json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}), "errnoRet"),
            (json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}), "errnoRet"),
            (json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"}), "action"),
            (
                json!({"names": ["read"], "action": "SCMP_ACT_ALLOW",
                       "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}),
                "args",
            ),
        ] {
            assert_eq!(invalid(rule(value)), format!("linux.seccomp.syscalls[0].{field}"));
        }
        let silent = rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"}));
        assert_eq!(invalid(silent), "linux.seccomp.listenerPath");
        let metadata = json!({"defaultAction": "SCMP_ACT_ERRNO", "listenerMetadata": "x"});
        assert_eq!(invalid(metadata), "linux.seccomp.listenerMetadata");
    }

    #[test]
    fn program_beyond_the_kernels_limit_is_refused() {
        let args: Vec<Value> = (0..3000)
            .map(|value| json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"}))
            .collect();
        let rule = json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args});
        let value = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]});
        assert_eq!(invalid(value), "linux.seccomp");
    }
}
