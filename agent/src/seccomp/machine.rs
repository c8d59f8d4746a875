//! Runs a program as the kernel does, for tests, and holds compiled policies against the rules that
//! they were compiled from.

use proptest::prelude::*;

use super::{
    assembler::{
        AND, Instruction, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, RETURN,
    },
    compile::{ARCH_X86, ARCH_X86_64, compile},
    numbers::{Abi, X32_BIT},
    policy::{Action, Comparison, Operator, Policy, Rule},
};

/// `struct seccomp_data`, linux/seccomp.h, without the address.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub arch: u32,
    pub number: u32,
    pub args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> Option<u32> {
        if !offset.is_multiple_of(4) {
            return None;
        }
        match offset {
            0 => Some(self.number),
            4 => Some(self.arch),
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                u32::try_from(if offset.is_multiple_of(8) { arg & 0xffff_ffff } else { arg >> 32 })
                    .ok()
            }
            _ => None,
        }
    }
}

/// What the program returns; `None` for one that the kernel would not take.
pub fn run(program: &[Instruction], call: &Call) -> Option<u32> {
    let mut accumulator = 0;
    let mut next = 0;
    loop {
        let Instruction { code, yes, no, constant } = *program.get(next)?;
        next += 1;
        let mut jump = |holds: bool| next += usize::from(if holds { yes } else { no });
        match code {
            LOAD => accumulator = call.word(constant)?,
            AND => accumulator &= constant,
            RETURN => return Some(constant),
            JUMP => next += constant as usize,
            JUMP_EQUAL => jump(accumulator == constant),
            JUMP_GREATER => jump(accumulator > constant),
            JUMP_GREATER_OR_EQUAL => jump(accumulator >= constant),
            _ => return None,
        }
    }
}

fn holds(comparison: &Comparison, call: &Call) -> bool {
    let argument = call.args[usize::from(comparison.argument)] & comparison.mask;
    match comparison.operator {
        Operator::Equal => argument == comparison.value,
        Operator::NotEqual => argument != comparison.value,
        Operator::Less => argument < comparison.value,
        Operator::LessOrEqual => argument <= comparison.value,
        Operator::Greater => argument > comparison.value,
        Operator::GreaterOrEqual => argument >= comparison.value,
    }
}

/// The policy, read as it is written.
fn expected(policy: &Policy<'_>, call: &Call) -> Action {
    let abi = match (call.arch, call.number) {
        (ARCH_X86_64, number) if number < X32_BIT => Abi::X86_64,
        (ARCH_X86_64, u32::MAX) if !policy.abis.contains(&Abi::X32) => return policy.default,
        (ARCH_X86_64, _) => Abi::X32,
        (ARCH_X86, _) => Abi::X86,
        _ => return Action::KILL_THREAD,
    };
    if !policy.abis.contains(&abi) {
        return Action::KILL_THREAD;
    }
    let numbers = |rule: &Rule<'_>| -> Vec<u32> {
        rule.names.iter().filter_map(|name| abi.number(name)).collect()
    };
    let last = policy.rules.iter().flat_map(numbers).max();
    if last.is_some_and(|last| call.number > last) && !policy.default.is_permissive() {
        return Action::errno(38);
    }
    let about: Vec<&Rule<'_>> = policy
        .rules
        .iter()
        .filter(|rule| rule.action != policy.default && numbers(rule).contains(&call.number))
        .collect();
    let found = about
        .iter()
        .find(|rule| rule.comparisons.is_empty())
        .or_else(|| about.iter().find(|rule| rule.comparisons.iter().all(|one| holds(one, call))));
    found.map_or(policy.default, |rule| rule.action)
}

const NAMES: [&str; 8] =
    ["read", "execve", "socket", "clone", "clone3", "ipc", "ioctl", "no_such_call"];
/// Values at which comparisons change their minds.
const VALUES: [u64; 7] = [0, 1, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX - 1, u64::MAX];

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![prop::sample::select(&VALUES[..]), any::<u64>()]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::ALLOW),
        Just(Action::KILL_PROCESS),
        Just(Action::LOG),
        Just(Action::TRAP),
        (1..4096_u16).prop_map(Action::errno),
    ]
}

fn comparison() -> impl Strategy<Value = Comparison> {
    let operators = [
        Operator::Equal,
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Greater,
        Operator::GreaterOrEqual,
    ];
    let mask = prop_oneof![3 => Just(u64::MAX), 1 => value()];
    (0..6_u8, mask, prop::sample::select(operators.to_vec()), value()).prop_map(
        |(argument, mask, operator, value)| Comparison { argument, mask, operator, value },
    )
}

fn rule() -> impl Strategy<Value = Rule<'static>> {
    let names = prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4);
    (names, action(), prop::collection::vec(comparison(), 0..4))
        .prop_map(|(names, action, comparisons)| Rule { names, action, comparisons })
}

fn policy() -> impl Strategy<Value = Policy<'static>> {
    let abis = prop::sample::subsequence(vec![Abi::X86, Abi::X32], 0..=2).prop_map(|mut abis| {
        abis.push(Abi::X86_64);
        abis
    });
    (action(), abis, prop::collection::vec(rule(), 0..12))
        .prop_map(|(default, abis, rules)| Policy { default, abis, rules })
}

fn call() -> impl Strategy<Value = Call> {
    let named = (prop::sample::select(&NAMES[..7]), 0..3_u32)
        .prop_map(|(name, offset)| Abi::X86_64.number(name).unwrap_or(117) + offset);
    let number = prop_oneof![
        4 => named.clone(),
        2 => named.prop_map(|number| number | X32_BIT),
        1 => 0..600_u32,
        1 => prop::sample::select(&[u32::MAX, X32_BIT, X32_BIT + 520, 11, 102, 120][..]),
    ];
    let arch = prop::sample::select(&[ARCH_X86_64, ARCH_X86_64, ARCH_X86, 7][..]);
    (arch, number, prop::array::uniform6(value())).prop_map(|(arch, number, args)| Call {
        arch,
        number,
        args,
    })
}

proptest! {
    #[test]
    fn program_does_what_the_policy_says(
        policy in policy(),
        calls in prop::collection::vec(call(), 20),
    ) {
        let program = compile(&policy).unwrap();
        for call in calls {
            prop_assert_eq!(
                run(&program, &call), Some(expected(&policy, &call).value()), "{:?}", call
            );
        }
    }
}

#[test]
fn rules_far_apart_are_reached() {
    // Long enough that no comparison reaches its targets by itself.
    let names: Vec<String> = include_str!("syscalls.txt")
        .lines()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let rules: Vec<Rule<'_>> = (0_u16..)
        .zip(names.iter().take(250))
        .map(|(index, name)| Rule {
            names: vec![name],
            action: Action::errno(index + 1),
            comparisons: vec![Comparison {
                argument: 1,
                mask: u64::MAX,
                operator: Operator::GreaterOrEqual,
                value: u64::from(index) << 20,
            }],
        })
        .collect();
    let policy = Policy { default: Action::LOG, abis: vec![Abi::X86_64], rules };
    let program = compile(&policy).unwrap();
    assert!(program.len() > 1000);
    for number in 0..500 {
        for second in [0, 1 << 24, u64::MAX] {
            let call = Call { arch: ARCH_X86_64, number, args: [0, second, 0, 0, 0, 0] };
            assert_eq!(run(&program, &call), Some(expected(&policy, &call).value()), "{call:?}");
        }
    }
}
