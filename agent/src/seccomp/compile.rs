//! From a policy to a program. The kernel runs a new program once for each number to learn which
//! calls it always allows, and again at every other call: so numbers with the same outcome are
//! ranges, found by binary search, and arguments are looked at last.

use std::collections::{BTreeMap, HashMap};

use super::{
    assembler::{
        Assembler, Instruction, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, Label,
        MAX_INSTRUCTIONS,
    },
    numbers::{Abi, X32_BIT},
    policy::{Action, Comparison, Operator, Policy},
};

/// linux/audit.h: `AUDIT_ARCH_X86_64`, which x32 has too, and `AUDIT_ARCH_I386`.
pub const ARCH_X86_64: u32 = 0xc000_003e;
pub const ARCH_X86: u32 = 0x4000_0003;
/// Offsets in `struct seccomp_data`, linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
/// The number of a call that a tracer has cancelled.
const CANCELLED: u32 = u32::MAX;
/// What a call gives that the kernel does not have.
const ENOSYS: u16 = 38;

/// The program has more instructions than the kernel takes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("makes a program of more than {MAX_INSTRUCTIONS} instructions")]
pub struct TooLong;

/// What becomes of one number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Outcome {
    /// The same for all arguments.
    Action(Action),
    /// By the first of these rules that matches.
    Rules(Vec<usize>),
}

/// Numbers from here to the next range.
struct Range {
    first: u32,
    outcome: Outcome,
}

/// Compiles a policy.
///
/// # Errors
/// [`TooLong`].
pub fn compile(policy: &Policy<'_>) -> Result<Vec<Instruction>, TooLong> {
    let mut compiler =
        Compiler { policy, assembler: Assembler::default(), conditional: HashMap::new() };
    let x86 = policy.abis.contains(&Abi::X86).then(|| compiler.abi(Abi::X86));
    let x86 = x86.map(|search| compiler.with_number(search));
    let x32 = policy.abis.contains(&Abi::X32).then(|| compiler.abi(Abi::X32));
    let x86_64 = compiler.abi(Abi::X86_64);
    let assembler = &mut compiler.assembler;
    let x32 = x32.unwrap_or_else(|| {
        let killed = assembler.end(Action::KILL_THREAD.value());
        let cancelled = assembler.end(policy.default.value());
        assembler.test(JUMP_EQUAL, CANCELLED, cancelled, killed)
    });
    assembler.test(JUMP_GREATER_OR_EQUAL, X32_BIT, x32, x86_64);
    let x86_64 = assembler.load(NUMBER);
    let killed = assembler.end(Action::KILL_THREAD.value());
    let other = match x86 {
        Some(x86) => assembler.test(JUMP_EQUAL, ARCH_X86, x86, killed),
        None => killed,
    };
    assembler.test(JUMP_EQUAL, ARCH_X86_64, x86_64, other);
    assembler.load(ARCH);
    compiler.assembler.finish().ok_or(TooLong)
}

struct Compiler<'a> {
    policy: &'a Policy<'a>,
    assembler: Assembler,
    /// Those that were written, by their rules.
    conditional: HashMap<Vec<usize>, Label>,
}

impl Compiler<'_> {
    fn with_number(&mut self, search: Label) -> Label {
        self.assembler.continue_at(search);
        self.assembler.load(NUMBER)
    }

    fn abi(&mut self, abi: Abi) -> Label {
        self.search(&ranges(self.policy, abi))
    }

    fn search(&mut self, ranges: &[Range]) -> Label {
        match ranges {
            [] => self.assembler.end(self.policy.default.value()),
            [range] => self.outcome(&range.outcome),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let first = high.first().map_or(0, |range| range.first);
                let high = self.search(high);
                let low = self.search(low);
                self.assembler.test(JUMP_GREATER_OR_EQUAL, first, high, low)
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) -> Label {
        match outcome {
            Outcome::Action(action) => self.assembler.end(action.value()),
            Outcome::Rules(rules) => match self.conditional.get(rules) {
                Some(&label) => label,
                None => {
                    let label = self.rules(rules);
                    self.conditional.insert(rules.clone(), label);
                    label
                }
            },
        }
    }

    fn rules(&mut self, rules: &[usize]) -> Label {
        let mut otherwise = self.assembler.end(self.policy.default.value());
        for rule in rules.iter().rev().filter_map(|&index| self.policy.rules.get(index)) {
            let mut holds = self.assembler.end(rule.action.value());
            for comparison in rule.comparisons.iter().rev() {
                holds = self.comparison(comparison, holds, otherwise);
            }
            otherwise = holds;
        }
        otherwise
    }

    fn comparison(&mut self, comparison: &Comparison, yes: Label, no: Label) -> Label {
        match comparison.operator {
            Operator::Equal => self.equal(comparison, yes, no),
            Operator::NotEqual => self.equal(comparison, no, yes),
            Operator::Greater => self.greater(comparison, JUMP_GREATER, yes, no),
            Operator::GreaterOrEqual => self.greater(comparison, JUMP_GREATER_OR_EQUAL, yes, no),
            Operator::Less => self.greater(comparison, JUMP_GREATER_OR_EQUAL, no, yes),
            Operator::LessOrEqual => self.greater(comparison, JUMP_GREATER, no, yes),
        }
    }

    fn equal(&mut self, comparison: &Comparison, yes: Label, no: Label) -> Label {
        let [low, high] = Word::of(comparison);
        self.assembler.test(JUMP_EQUAL, low.value, yes, no);
        let low = low.load(&mut self.assembler);
        if high.mask == 0 && high.value == 0 {
            return low;
        }
        self.assembler.test(JUMP_EQUAL, high.value, low, no);
        high.load(&mut self.assembler)
    }

    fn greater(&mut self, comparison: &Comparison, code: u16, yes: Label, no: Label) -> Label {
        let [low, high] = Word::of(comparison);
        self.assembler.test(code, low.value, yes, no);
        let low = low.load(&mut self.assembler);
        let not_greater = self.assembler.test(JUMP_EQUAL, high.value, low, no);
        self.assembler.test(JUMP_GREATER, high.value, yes, not_greater);
        high.load(&mut self.assembler)
    }
}

/// A half of a comparison: programs load 32 bits.
struct Word {
    offset: u32,
    mask: u32,
    value: u32,
}

impl Word {
    /// The low one and the high one, in the order of memory.
    fn of(comparison: &Comparison) -> [Self; 2] {
        let half = |wide: u64, index: u32| {
            u32::try_from((wide >> (32 * index)) & u64::from(u32::MAX)).unwrap_or_default()
        };
        [0, 1].map(|index| Self {
            offset: ARGUMENTS + 8 * u32::from(comparison.argument) + 4 * index,
            mask: half(comparison.mask, index),
            value: half(comparison.value, index),
        })
    }

    /// Loads the argument's half for the test that was written last.
    fn load(&self, assembler: &mut Assembler) -> Label {
        if self.mask != u32::MAX {
            assembler.and(self.mask);
        }
        assembler.load(self.offset)
    }
}

fn ranges(policy: &Policy<'_>, abi: Abi) -> Vec<Range> {
    let (outcomes, last_named) = outcomes(policy, abi);
    let mut ranges: Vec<Range> = Vec::new();
    let mut add = |first, outcome| {
        if ranges.last().is_none_or(|range| range.outcome != outcome) {
            ranges.push(Range { first, outcome });
        }
    };
    let default = Outcome::Action(policy.default);
    let mut next = abi.first_number();
    for (number, outcome) in outcomes {
        if number > next {
            add(next, default.clone());
        }
        add(number, outcome);
        next = number + 1;
    }
    // A number above all that are named was added to the kernel after the policy was written.
    if let Some(last) = last_named.filter(|_| !policy.default.is_permissive()) {
        if next <= last {
            add(next, default);
        }
        add(last + 1, Outcome::Action(Action::errno(ENOSYS)));
    } else {
        add(next, default);
    }
    ranges
}

/// What is not the default, by number, and the last number that is named.
fn outcomes(policy: &Policy<'_>, abi: Abi) -> (BTreeMap<u32, Outcome>, Option<u32>) {
    let mut outcomes: BTreeMap<u32, Outcome> = BTreeMap::new();
    let mut last = None;
    for (index, rule) in policy.rules.iter().enumerate() {
        for number in rule.names.iter().filter_map(|name| abi.number(name)) {
            last = last.max(Some(number));
            if rule.action == policy.default {
                continue;
            }
            let outcome = outcomes.entry(number).or_insert_with(|| Outcome::Rules(Vec::new()));
            match outcome {
                Outcome::Action(_) => {}
                outcome if rule.comparisons.is_empty() => *outcome = Outcome::Action(rule.action),
                Outcome::Rules(rules) => rules.push(index),
            }
        }
    }
    (outcomes, last)
}
