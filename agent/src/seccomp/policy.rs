//! What to do about which system call: the values that a spec or the default profile is turned
//! into, and that a program is compiled from.

use super::numbers::Abi;

/// linux/seccomp.h: `SECCOMP_RET_*`.
const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
/// The part of a value that names the action; the rest is its data.
const ACTION: u32 = 0xffff_0000;

/// What becomes of a call, as the value that a program returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Action(u32);

impl Action {
    /// Ends the thread with SIGSYS.
    pub const KILL_THREAD: Self = Self(KILL_THREAD);
    /// Ends the process with SIGSYS.
    pub const KILL_PROCESS: Self = Self(KILL_PROCESS);
    /// Sends SIGSYS.
    pub const TRAP: Self = Self(TRAP);
    /// A listener decides.
    pub const NOTIFY: Self = Self(NOTIFY);
    /// Allows and logs.
    pub const LOG: Self = Self(LOG);
    /// Allows.
    pub const ALLOW: Self = Self(ALLOW);

    /// Fails with an errno.
    #[must_use]
    pub fn errno(errno: u16) -> Self {
        Self(ERRNO | u32::from(errno))
    }

    /// Tells a tracer, with a number for it.
    #[must_use]
    pub fn trace(data: u16) -> Self {
        Self(TRACE | u32::from(data))
    }

    /// What a program returns.
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }

    /// Whether a call goes on, if nobody intervenes.
    #[must_use]
    pub fn is_permissive(self) -> bool {
        matches!(self.0 & ACTION, ALLOW | LOG | TRACE)
    }
}

/// How an argument is compared, all 64 bits of it, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A condition: an argument, and what it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// 0 to 5.
    pub argument: u8,
    /// Bits of the argument that count.
    pub mask: u64,
    /// How.
    pub operator: Operator,
    /// With what.
    pub value: u64,
}

/// What to do about some calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<'a> {
    /// Those that an architecture does not have are passed over.
    pub names: Vec<&'a str>,
    /// What becomes of the call.
    pub action: Action,
    /// All of them must hold.
    pub comparisons: Vec<Comparison>,
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy<'a> {
    /// What becomes of a call that no rule is about.
    pub default: Action,
    /// Those whose calls are not killed. The machine's own is always among them.
    pub abis: Vec<Abi>,
    /// In the order of the spec.
    pub rules: Vec<Rule<'a>>,
}
