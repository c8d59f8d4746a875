//! Filters of system calls, one for each kind of thread: seccomp(2). [`table`] is what they let
//! through; here it becomes a program and is installed.
//!
//! A call that is not in the table kills the process with SIGSYS, and the kernel's audit log names
//! the call (`type=1326`, `syscall=`). A thread installs its filter as the first thing it does,
//! before the guest's first instruction, and starts no other thread afterwards.

pub mod table;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::OnceLock;

use nix::unistd::getpid;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::JailError;
use table::{Call, Check, Is};

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The first thread: control and the event loop of all devices.
    Main,
    /// As [`Self::Main`], of a machine that has hot-plug memory.
    MainHotplug,
    /// Runs one virtual CPU; calls devices for registers, activation and reset.
    Vcpu,
    /// Reads and writes disks where the kernel has no io_uring.
    Block,
}

impl Role {
    fn lists(self) -> &'static [&'static [Call]] {
        match self {
            Self::Main => &[table::EVERY_THREAD, table::DEVICES, table::MAIN],
            Self::MainHotplug => {
                &[table::EVERY_THREAD, table::DEVICES, table::MAIN, table::HOTPLUG]
            }
            Self::Vcpu => &[table::EVERY_THREAD, table::DEVICES, table::VCPU],
            Self::Block => &[table::EVERY_THREAD, table::BLOCK],
        }
    }
}

/// Binds the calling thread to what `role` may do, for ever. Other threads are not touched.
///
/// # Errors
/// [`JailError::Compile`], [`JailError::Install`]. The process must not run a guest then.
pub fn install(role: Role) -> Result<(), JailError> {
    static MAIN: OnceLock<BpfProgram> = OnceLock::new();
    static MAIN_HOTPLUG: OnceLock<BpfProgram> = OnceLock::new();
    static VCPU: OnceLock<BpfProgram> = OnceLock::new();
    static BLOCK: OnceLock<BpfProgram> = OnceLock::new();
    let compiled = match role {
        Role::Main => &MAIN,
        Role::MainHotplug => &MAIN_HOTPLUG,
        Role::Vcpu => &VCPU,
        Role::Block => &BLOCK,
    };
    if let Some(program) = compiled.get() {
        return apply_filter(program).map_err(JailError::Install);
    }
    // Two threads may compile at once; one result is kept.
    let program = compile(role, SeccompAction::KillProcess).map_err(JailError::Compile)?;
    apply_filter(compiled.get_or_init(|| program)).map_err(JailError::Install)
}

/// The program of a role for this process. Calls that it does not let through end in `refusal`.
pub(super) fn compile(role: Role, refusal: SeccompAction) -> Result<BpfProgram, BackendError> {
    let own = u64::from(getpid().as_raw().unsigned_abs());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in role.lists().iter().copied().flatten() {
        let added = call.rules(own)?;
        match rules.entry(call.number) {
            Entry::Vacant(free) => {
                free.insert(added);
            }
            // No rules: any arguments. A second mention never narrows that.
            Entry::Occupied(there) if there.get().is_empty() => {}
            Entry::Occupied(mut there) if added.is_empty() => there.get_mut().clear(),
            Entry::Occupied(mut there) => there.get_mut().extend(added),
        }
    }
    let filter = SeccompFilter::new(rules, refusal, SeccompAction::Allow, TargetArch::x86_64)?;
    filter.try_into()
}

impl Call {
    /// One rule for each set of checks; of a set, all must hold.
    fn rules(&self, own_process: u64) -> Result<Vec<SeccompRule>, BackendError> {
        let rule = |checks: &&[Check]| {
            let conditions: Result<Vec<_>, _> =
                checks.iter().map(|check| check.condition(own_process)).collect();
            SeccompRule::new(conditions?)
        };
        self.when.iter().map(rule).collect()
    }
}

impl Check {
    fn condition(&self, own_process: u64) -> Result<SeccompCondition, BackendError> {
        use SeccompCmpArgLen::{Dword, Qword};
        let (len, operator, value) = match self.is {
            Is::Equal(value) => (Dword, SeccompCmpOp::Eq, value),
            Is::Without(bits) => (Dword, SeccompCmpOp::MaskedEq(bits), 0),
            Is::With(bits) => (Dword, SeccompCmpOp::MaskedEq(bits), bits),
            Is::OwnProcess => (Dword, SeccompCmpOp::Eq, own_process),
            Is::Null => (Qword, SeccompCmpOp::Eq, 0),
        };
        SeccompCondition::new(self.argument, len, operator, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 4] = [Role::Main, Role::MainHotplug, Role::Vcpu, Role::Block];

    #[test]
    fn no_list_widens_what_another_narrows() {
        for role in ROLES {
            let mut mentions: BTreeMap<i64, Vec<bool>> = BTreeMap::new();
            for call in role.lists().iter().copied().flatten() {
                mentions.entry(call.number).or_default().push(call.when.is_empty());
            }
            for (number, free) in mentions {
                assert!(free.len() == 1 || !free.contains(&true), "{role:?}: call {number}");
            }
        }
    }

    #[test]
    fn checks_name_arguments_and_ask_something() {
        for check in ROLES.into_iter().flat_map(|role| role.lists().iter().copied().flatten()) {
            for check in check.when.iter().copied().flatten() {
                assert!(check.argument < 6);
                assert!(!matches!(check.is, Is::Without(0) | Is::With(0)), "{check:?}");
            }
            assert!(check.when.iter().all(|checks| !checks.is_empty()));
        }
    }

    #[test]
    fn programs_fit_into_the_kernel() {
        for role in ROLES {
            let program = compile(role, SeccompAction::KillProcess).unwrap();
            // BPF_MAXINSNS, linux/bpf_common.h.
            assert!(!program.is_empty() && program.len() <= 4096, "{role:?}: {}", program.len());
        }
    }
}
