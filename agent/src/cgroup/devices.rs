//! `linux.resources.devices`: which device nodes a container's processes may read, write and make,
//! and the filter on its cgroup that holds them to it. Rules count in their order, the later one
//! wins, and a device that no rule speaks of is denied. Nodes of `linux.devices` are no rules.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Once, OnceLock},
};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{CgroupError, ROOT, program};
use crate::{spec::SpecError, sys::bpf};

const FIELD: &str = "linux.resources.devices";
/// More than any host has devices; keeps the program well within the kernel's limits.
pub const MAX_RULES: usize = 1024;

/// The kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `b`.
    Block,
    /// `c`.
    Character,
}

bitflags::bitflags! {
    /// What is done to a node: `BPF_DEVCG_ACC_*` of linux/bpf.h.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Made.
        const MAKE = 1;
        /// Opened for reading.
        const READ = 2;
        /// Opened for writing.
        const WRITE = 4;
    }
}

/// One rule; what is `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Or deny.
    pub allow: bool,
    /// Kind of the node.
    pub kind: Option<Kind>,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// The access it speaks of.
    pub access: Access,
}

impl Rule {
    const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> Self {
        Self { allow: true, kind: Some(kind), major, minor, access }
    }

    const fn character(major: u32, minor: Option<u32>) -> Self {
        Self::allow(Kind::Character, Some(major), minor, Access::all())
    }

    /// Whether it speaks of every device and access.
    fn is_total(&self) -> bool {
        let Self { kind, major, minor, access, .. } = self;
        kind.is_none() && major.is_none() && minor.is_none() && access.is_all()
    }
}

/// What every container may do, whatever its rules: runc's list (libcontainer/specconv).
const ALWAYS: [Rule; 11] = [
    // Making a node opens nothing.
    Rule::allow(Kind::Character, None, None, Access::MAKE),
    Rule::allow(Kind::Block, None, None, Access::MAKE),
    // tun
    Rule::character(10, Some(200)),
    // ptmx, and all of pts
    Rule::character(5, Some(2)),
    Rule::character(136, None),
    // tty
    Rule::character(5, Some(0)),
    // full, random, urandom, zero, null
    Rule::character(1, Some(7)),
    Rule::character(1, Some(8)),
    Rule::character(1, Some(9)),
    Rule::character(1, Some(5)),
    Rule::character(1, Some(3)),
];

/// All rules of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// For what none of them speaks of.
    pub default_allow: bool,
    /// In their order.
    pub rules: Vec<Rule>,
}

impl Rules {
    /// Reads the list, and adds what every container may do.
    ///
    /// # Errors
    /// [`SpecError`] with the rule's place in the list.
    pub fn read(list: &[LinuxDeviceCgroup]) -> Result<Self, SpecError> {
        if list.len() > MAX_RULES {
            let reason = format!("{} rules are more than {MAX_RULES}", list.len());
            return Err(SpecError::invalid(FIELD, reason));
        }
        let rules: Vec<Rule> = list
            .iter()
            .enumerate()
            .map(|(index, rule)| one(&format!("{FIELD}[{index}]"), rule))
            .collect::<Result<_, _>>()?;
        // What comes before a rule for everything counts no more.
        let total = rules.iter().rposition(Rule::is_total);
        let default_allow = total.and_then(|place| rules.get(place)).is_some_and(|rule| rule.allow);
        let mut rules: Vec<Rule> =
            rules.into_iter().skip(total.map_or(0, |place| place + 1)).collect();
        if !default_allow || !rules.is_empty() {
            rules.extend(ALWAYS);
        }
        Ok(Self { default_allow, rules })
    }

    /// Whether all is allowed.
    fn are_open(&self) -> bool {
        self.default_allow && self.rules.is_empty()
    }

    /// Whether they are those of a container that asks for nothing.
    fn are_default(&self) -> bool {
        !self.default_allow && self.rules == ALWAYS
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self { default_allow: false, rules: ALWAYS.into() }
    }
}

fn one(field: &str, rule: &LinuxDeviceCgroup) -> Result<Rule, SpecError> {
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Kind::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Character),
        Some(LinuxDeviceType::P) => {
            return Err(SpecError::invalid(field, "a FIFO is no device"));
        }
    };
    let number = |name: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| SpecError::invalid(field, format!("{name} {value} is out of range"))),
    };
    let mut access = Access::empty();
    for letter in rule.access().iter().flat_map(|text| text.chars()) {
        access |= match letter {
            'r' => Access::READ,
            'w' => Access::WRITE,
            'm' => Access::MAKE,
            other => {
                let reason = format!("access {other:?} is none of r, w and m");
                return Err(SpecError::invalid(field, reason));
            }
        };
    }
    if access.is_empty() {
        return Err(SpecError::invalid(field, "access is empty"));
    }
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major: number("major", rule.major())?,
        minor: number("minor", rule.minor())?,
        access,
    })
}

/// A program that the kernel has taken. `None` allows everything.
type Program = Option<Arc<OwnedFd>>;

/// Loaded once: most containers have the same.
static DEFAULT_PROGRAM: OnceLock<Arc<OwnedFd>> = OnceLock::new();

fn load(rules: &Rules) -> Result<Program, CgroupError> {
    if rules.are_open() {
        return Ok(None);
    }
    if rules.are_default()
        && let Some(program) = DEFAULT_PROGRAM.get()
    {
        return Ok(Some(program.clone()));
    }
    let program = bpf::load_device_program(&program::assemble(rules)).map_err(no_filter("load"))?;
    let program = Arc::new(program);
    if rules.are_default() {
        // Another thread may have been first; both programs are the same.
        let _ = DEFAULT_PROGRAM.set(program.clone());
    }
    Ok(Some(program))
}

/// The kernel patches its code when the first program comes and when the last one goes, each time a
/// single container comes and goes. A program that allows everything stays on the root, and so does
/// the patch.
fn keep_hooks_on() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let open = Rules { default_allow: true, rules: Vec::new() };
        let attach = || {
            let root = File::open(ROOT)?;
            let program = bpf::load_device_program(&program::assemble(&open))?;
            io::Result::Ok(bpf::attach_device_program(root.as_fd(), program.as_fd(), None)?)
        };
        // Without it everything works, and slower.
        let _ = attach();
    });
}

fn no_filter(operation: &'static str) -> impl Fn(Errno) -> CgroupError {
    move |errno| match errno {
        Errno::ENOSYS => CgroupError::NoDeviceFilter { option: "CONFIG_BPF_SYSCALL" },
        Errno::EINVAL => CgroupError::NoDeviceFilter { option: "CONFIG_CGROUP_BPF" },
        errno => {
            let path = "device program".to_owned();
            CgroupError::Operation { operation, path, source: errno.into() }
        }
    }
}

/// The filter of a cgroup.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    attached: bool,
}

impl Filter {
    /// Prepares one; it is not in force yet.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn prepare(rules: &Rules) -> Result<Self, CgroupError> {
        Ok(Self { program: load(rules)?, attached: false })
    }

    /// Puts it in force.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn attach(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), CgroupError> {
        if let Some(program) = self.program.as_ref().filter(|_| !self.attached) {
            keep_hooks_on();
            bpf::attach_device_program(cgroup, program.as_fd(), None)
                .map_err(no_filter("attach"))?;
        }
        self.attached = true;
        Ok(())
    }

    /// Puts another in the place of this one, in one step.
    ///
    /// # Errors
    /// [`CgroupError`]; this one is in force then.
    pub fn replace(&mut self, other: Self, cgroup: BorrowedFd<'_>) -> Result<(), CgroupError> {
        let former = self.program.as_ref().filter(|_| self.attached);
        match (&other.program, former) {
            (Some(program), former) => {
                let same = former.is_some_and(|former| Arc::ptr_eq(former, program));
                let former = former.map(|former| former.as_fd());
                if !same {
                    bpf::attach_device_program(cgroup, program.as_fd(), former)
                        .map_err(no_filter("replace"))?;
                }
            }
            (None, Some(former)) => {
                bpf::detach_device_program(cgroup, former.as_fd()).map_err(no_filter("detach"))?;
            }
            (None, None) => {}
        }
        *self = Self { program: other.program, attached: true };
        Ok(())
    }
}

/// What a process wants of a node.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub kind: Kind,
    pub major: u32,
    pub minor: u32,
    pub access: Access,
}

#[cfg(test)]
impl Rules {
    /// The rules in the spec's words: for each access that is asked for, the last rule decides.
    pub fn allow(&self, request: Request) -> bool {
        let matches = |rule: &&Rule| {
            rule.kind.is_none_or(|kind| kind == request.kind)
                && rule.major.is_none_or(|major| major == request.major)
                && rule.minor.is_none_or(|minor| minor == request.minor)
        };
        request.access.iter().all(|access| {
            let speaks = |rule: &&Rule| rule.access.contains(access);
            let last = self.rules.iter().filter(matches).rfind(speaks);
            last.map_or(self.default_allow, |rule| rule.allow)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(list: Value) -> Result<Rules, SpecError> {
        let list: Vec<LinuxDeviceCgroup> = serde_json::from_value(list).unwrap();
        Rules::read(&list)
    }

    fn asks(kind: Kind, major: u32, minor: u32, access: Access) -> Request {
        Request { kind, major, minor, access }
    }

    #[test]
    fn container_without_rules_has_the_usual_devices_and_no_others() {
        let rules = Rules::default();
        assert_eq!(read(json!([])).unwrap(), rules);
        // What engines write first: nothing, then their list.
        assert!(read(json!([{"allow": false, "access": "rwm"}])).unwrap().are_default());
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 9)] {
            let request = asks(Kind::Character, major, minor, Access::all());
            assert!(rules.allow(request), "{request:?}");
        }
        // Kernel memory, the guest's console, KVM, a disk.
        for (kind, major, minor) in [
            (Kind::Character, 1, 1),
            (Kind::Character, 5, 1),
            (Kind::Character, 10, 232),
            (Kind::Block, 254, 0),
        ] {
            assert!(!rules.allow(asks(kind, major, minor, Access::READ)));
            assert!(!rules.allow(asks(kind, major, minor, Access::WRITE)));
            assert!(rules.allow(asks(kind, major, minor, Access::MAKE)));
        }
    }

    #[test]
    fn later_rule_wins_for_the_access_it_speaks_of() {
        let rules = read(json!([
            {"allow": true, "type": "b", "major": 254, "access": "rw"},
            {"allow": false, "type": "b", "major": 254, "minor": 1, "access": "w"},
        ]))
        .unwrap();
        assert!(rules.allow(asks(Kind::Block, 254, 0, Access::READ | Access::WRITE)));
        assert!(rules.allow(asks(Kind::Block, 254, 1, Access::READ)));
        assert!(!rules.allow(asks(Kind::Block, 254, 1, Access::READ | Access::WRITE)));
        assert!(!rules.allow(asks(Kind::Character, 254, 0, Access::READ)));
    }

    #[test]
    fn rule_for_everything_ends_what_came_before_it() {
        let open = read(json!([
            {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "r"},
            {"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm"},
        ]))
        .unwrap();
        assert!(open.are_open());
        let all_but_one = read(json!([
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ]))
        .unwrap();
        assert!(!all_but_one.are_open());
        assert!(all_but_one.allow(asks(Kind::Block, 254, 0, Access::WRITE)));
        assert!(!all_but_one.allow(asks(Kind::Character, 1, 11, Access::READ)));
    }

    #[test]
    fn rules_that_make_no_sense_are_invalid() {
        for rule in [
            json!({"allow": true, "type": "c", "major": 1}),
            json!({"allow": true, "type": "c", "major": 1, "access": ""}),
            json!({"allow": true, "type": "c", "major": 1, "access": "rx"}),
            json!({"allow": true, "type": "c", "major": -2, "access": "r"}),
            json!({"allow": true, "type": "c", "major": 1_i64 << 32, "access": "r"}),
            json!({"allow": true, "type": "p", "access": "r"}),
        ] {
            let error = read(json!([{"allow": false, "access": "rwm"}, rule])).unwrap_err();
            assert!(error.to_string().contains("linux.resources.devices[1]"), "{error}");
        }
        let many = vec![json!({"allow": true, "access": "r"}); MAX_RULES + 1];
        assert!(read(json!(many)).is_err());
    }
}
