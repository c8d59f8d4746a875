//! `linux.seccomp`: from the rules of a spec, or from the usual container default when it has none,
//! to the program that the kernel runs at each system call (seccomp(2)). Pure: whoever becomes the
//! user's process loads what is made here.
//!
//! ```text
//! linux.seccomp --spec--> Policy --compile--> instructions --> Filter, ready to be loaded
//! (no field) --default, by capabilities-/
//! ```
//!
//! Rules count as with libseccomp, which other runtimes use: one without arguments beats those
//! with; of several with arguments the first that matches counts; all arguments of a rule must
//! match, unless one is named twice, which makes each an alternative; a rule with the default
//! action says nothing; a name that no architecture knows is passed over. What is numbered above
//! all that a policy names gives ENOSYS when the policy is not permissive, so that programs which
//! try new system calls fall back to old ones.

mod assembler;
mod compile;
mod default;
#[cfg(test)]
mod machine;
mod multiplexed;
mod numbers;
mod policy;
mod spec;

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{LazyLock, Mutex, PoisonError},
};

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::spec::SpecError;
use assembler::Instruction;
use compile::compile;

/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`, linux/seccomp.h: what other runtimes set when a spec has no
/// flags.
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// Programs of the default profile that are kept: there are as many as kinds of capability sets in
/// use.
const MAX_KEPT: usize = 32;

/// What confines a container's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// The spec says nothing: the usual default, by each process's own capabilities.
    Default,
    /// The spec allows everything.
    Unconfined,
    /// The spec's own, the same for every process.
    Own(Filter, Option<Listener>),
}

/// Who decides about calls with `SCMP_ACT_NOTIFY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// A Unix socket in the guest.
    pub path: PathBuf,
    /// Passed on to it.
    pub metadata: Option<String>,
}

/// A program to load, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// What the kernel runs.
    pub program: Program,
    /// `SECCOMP_FILTER_FLAG_*`, without that for a listener.
    pub flags: u32,
    /// Some calls are decided by a listener.
    pub listens: bool,
}

/// Instructions as the kernel has them, eight bytes each: cBPF, linux/filter.h.
#[derive(Clone, PartialEq, Eq)]
pub struct Program(Vec<u8>);

impl Program {
    fn new(instructions: &[Instruction]) -> Self {
        Self(instructions.iter().flat_map(|instruction| instruction.bytes()).collect())
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({} instructions)", self.0.len() / 8)
    }
}

// As bytes and not as a list of numbers: read in one piece by the second stage.
impl Serialize for Program {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Program {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Program;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Program, E> {
                Ok(Program(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl Profile {
    /// Reads `linux.seccomp`.
    ///
    /// # Errors
    /// [`SpecError`] with the field's name.
    pub fn read(seccomp: Option<&LinuxSeccomp>) -> Result<Self, SpecError> {
        seccomp.map_or(Ok(Self::Default), spec::read)
    }

    /// What a process with this bounding set of capabilities loads.
    #[must_use]
    pub fn filter(&self, bounding: u64) -> Option<Filter> {
        match self {
            Self::Default => Some(default_filter(bounding)),
            Self::Unconfined => None,
            Self::Own(filter, _) => Some(filter.clone()),
        }
    }

    /// Who decides, where the spec wants somebody to.
    #[must_use]
    pub fn listener(&self) -> Option<&Listener> {
        match self {
            Self::Own(_, listener) => listener.as_ref(),
            Self::Default | Self::Unconfined => None,
        }
    }
}

fn default_filter(bounding: u64) -> Filter {
    static KEPT: LazyLock<Mutex<HashMap<u64, Filter>>> = LazyLock::new(Mutex::default);
    let relevant = bounding & default::relevant_capabilities();
    // A map is whole whoever has panicked while holding it.
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filter) = kept.get(&relevant) {
        return filter.clone();
    }
    let instructions = compile(&default::policy(relevant))
        .expect("the default profile is far below the longest program");
    let program = Program::new(&instructions);
    let filter = Filter { program, flags: FLAG_SPEC_ALLOW, listens: false };
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(relevant, filter.clone());
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_survives_the_way_to_the_second_stage() {
        let filter = Profile::Default.filter(0).unwrap();
        let bytes = postcard::to_stdvec(&filter).unwrap();
        assert_eq!(postcard::from_bytes::<Filter>(&bytes).unwrap(), filter);
        assert!(bytes.len() < filter.program.bytes().len() + 8);
    }

    #[test]
    fn default_differs_by_the_capabilities_that_matter_only() {
        let filter = |bounding| Profile::Default.filter(bounding).unwrap();
        let (chown, sys_admin) = (1, 1 << 21);
        assert_eq!(filter(0), filter(chown));
        assert_ne!(filter(0), filter(sys_admin));
    }
}
