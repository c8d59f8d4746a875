//! Device rules as a program for the kernel's BPF machine (Documentation/bpf/standardization,
//! `struct bpf_cgroup_dev_ctx` of linux/bpf.h). Pure: an assembler for the few instructions it
//! takes.
//!
//! The last rule that speaks of a kind of access decides on it. So the program asks the rules from
//! the last to the first, and crosses off what one has allowed, until nothing is left. That is all
//! it remembers from one rule to the next: the kernel's verifier follows every combination of what
//! is remembered, and would give up on a long list.

use super::devices::{Kind, Rule, Rules};

/// Where the program's argument is at its start, and what it keeps: linux/bpf.h, "Register
/// numbers".
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
/// What is asked for and not yet allowed.
const ACCESS: u8 = 2;
/// What a rule compares.
const NUMBER: u8 = 3;

/// Class, operation and operand: linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_BITS: u8 = 0x45;
/// Compares 32 bits.
const JUMP_IF_OTHER: u8 = 0x56;
const EXIT: u8 = 0x95;

/// Offsets in `struct bpf_cgroup_dev_ctx`.
const ACCESS_TYPE: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;
/// `access_type` has the kind in its lower half and the access above.
const ACCESS_SHIFT: i32 = 16;

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    target: u8,
    source: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    /// As it lies in memory.
    fn encode(self) -> u64 {
        let [low, high] = self.offset.to_le_bytes();
        let [a, b, c, d] = self.value.to_le_bytes();
        u64::from_ne_bytes([self.code, self.target | self.source << 4, low, high, a, b, c, d])
    }
}

fn with_value(code: u8, target: u8, value: i32) -> Instruction {
    Instruction { code, target, source: 0, offset: 0, value }
}

fn load(code: u8, target: u8, offset: i16) -> Instruction {
    Instruction { code, target, source: CONTEXT, offset, value: 0 }
}

/// The two ends of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Deny,
    Allow,
}

/// An instruction, and where it jumps to when that is an end.
type Line = (Instruction, Option<Verdict>);

/// The program that carries the rules out, as the kernel takes it.
#[must_use]
pub fn assemble(rules: &Rules) -> Vec<u64> {
    instructions(rules).into_iter().map(Instruction::encode).collect()
}

fn instructions(rules: &Rules) -> Vec<Instruction> {
    let mut lines: Vec<Line> = vec![
        (load(LOAD_WORD, ACCESS, ACCESS_TYPE), None),
        (with_value(SHIFT_RIGHT, ACCESS, ACCESS_SHIFT), None),
        // One who only looks whether the node is there.
        (with_value(JUMP_IF_EQUAL, ACCESS, 0), Some(Verdict::Allow)),
    ];
    for rule in rules.rules.iter().rev() {
        lines.extend(rule_lines(rule));
    }
    link(lines, rules.default_allow)
}

fn rule_lines(rule: &Rule) -> Vec<Line> {
    let access = i32::from(rule.access.bits());
    let body: &[Line] = if rule.allow {
        &[
            (with_value(AND, ACCESS, !access), None),
            (with_value(JUMP_IF_EQUAL, ACCESS, 0), Some(Verdict::Allow)),
        ]
    } else {
        &[(with_value(JUMP_IF_BITS, ACCESS, access), Some(Verdict::Deny))]
    };
    let kind = rule.kind.map(|kind| match kind {
        Kind::Block => 1,
        Kind::Character => 2,
    });
    let number = |number: Option<u32>| number.map(u32::cast_signed);
    let conditions: Vec<(Instruction, i32)> = [
        (load(LOAD_HALF, NUMBER, ACCESS_TYPE), kind),
        (load(LOAD_WORD, NUMBER, MAJOR), number(rule.major)),
        (load(LOAD_WORD, NUMBER, MINOR), number(rule.minor)),
    ]
    .into_iter()
    .filter_map(|(load, wanted)| Some((load, wanted?)))
    .collect();
    let end = 2 * conditions.len() + body.len();
    let mut lines: Vec<Line> = Vec::with_capacity(end);
    for (load, wanted) in conditions {
        lines.push((load, None));
        // Over the conditions that follow, and the body.
        let offset = distance(lines.len() + 1, end);
        let jump = Instruction { offset, ..with_value(JUMP_IF_OTHER, NUMBER, wanted) };
        lines.push((jump, None));
    }
    lines.extend(body);
    lines
}

fn distance(from: usize, to: usize) -> i16 {
    i16::try_from(to - from).expect("rules are bounded by MAX_RULES, and the ends are behind them")
}

/// Adds the ends, that of the default first, and leads the jumps there. An end that nobody jumps to
/// would be refused as dead code.
fn link(lines: Vec<Line>, default_allow: bool) -> Vec<Instruction> {
    let (first, second) = if default_allow {
        (Verdict::Allow, Verdict::Deny)
    } else {
        (Verdict::Deny, Verdict::Allow)
    };
    let end = lines.len();
    let place = |verdict| if verdict == first { end } else { end + 2 };
    let second_is_used = lines.iter().any(|(_, jump)| *jump == Some(second));
    let mut program: Vec<Instruction> = lines
        .iter()
        .enumerate()
        .map(|(index, &(instruction, jump))| match jump {
            Some(verdict) => {
                Instruction { offset: distance(index + 1, place(verdict)), ..instruction }
            }
            None => instruction,
        })
        .collect();
    let mut finish = |verdict| {
        program.push(with_value(MOVE, RESULT, i32::from(verdict == Verdict::Allow)));
        program.push(with_value(EXIT, 0, 0));
    };
    finish(first);
    if second_is_used {
        finish(second);
    }
    program
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::devices::{Access, Request},
        *,
    };

    /// A machine for what the assembler writes. Refuses what the kernel's verifier would: jumps out
    /// of the program, backwards, and a program without an end.
    fn interpret(program: &[Instruction], request: Request) -> bool {
        let mut registers = [0_u64; 6];
        let kind = match request.kind {
            Kind::Block => 1,
            Kind::Character => 2,
        };
        let context = [u32::from(request.access.bits()) << 16 | kind, request.major, request.minor];
        let mut at = 0;
        loop {
            let instruction = program[at];
            let value = i64::from(instruction.value).cast_unsigned();
            let target = &mut registers[usize::from(instruction.target)];
            assert!(instruction.offset >= 0, "backwards");
            let offset = usize::try_from(instruction.offset).unwrap();
            at += 1;
            let low = |number: u64| number & 0xffff_ffff;
            let jumps = match instruction.code {
                LOAD_WORD => {
                    *target = context[offset / 4].into();
                    false
                }
                LOAD_HALF => {
                    *target = (context[offset / 4] & 0xffff).into();
                    false
                }
                MOVE => {
                    *target = value;
                    false
                }
                AND => {
                    *target &= value;
                    false
                }
                SHIFT_RIGHT => {
                    *target >>= value;
                    false
                }
                JUMP_IF_EQUAL => *target == value,
                JUMP_IF_BITS => *target & value != 0,
                JUMP_IF_OTHER => low(*target) != low(value),
                EXIT => return registers[usize::from(RESULT)] == 1,
                code => panic!("{code:#x}"),
            };
            if jumps {
                at += offset;
            }
        }
    }

    /// Every instruction can be reached: the verifier insists.
    fn has_no_dead_code(program: &[Instruction]) -> bool {
        let mut reached = vec![false; program.len()];
        let mut next = vec![0];
        while let Some(at) = next.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            let instruction = program[at];
            if instruction.code != EXIT {
                next.push(at + 1);
            }
            if [JUMP_IF_EQUAL, JUMP_IF_BITS, JUMP_IF_OTHER].contains(&instruction.code) {
                next.push(at + 1 + usize::try_from(instruction.offset).unwrap());
            }
        }
        reached.iter().all(|&reached| reached)
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Block), Just(Kind::Character)]
    }

    /// Few numbers, so that rules and requests meet, and the largest.
    fn numbers() -> impl Strategy<Value = u32> {
        prop_oneof![0_u32..4, Just(u32::MAX)]
    }

    fn accesses(range: std::ops::Range<u8>) -> impl Strategy<Value = Access> {
        range.prop_map(Access::from_bits_truncate)
    }

    prop_compose! {
        fn a_rule()(
            allow: bool,
            kind in prop::option::of(kinds()),
            major in prop::option::of(numbers()),
            minor in prop::option::of(numbers()),
            access in accesses(1..8),
        ) -> Rule {
            Rule { allow, kind, major, minor, access }
        }
    }

    prop_compose! {
        fn a_request()(
            kind in kinds(),
            major in numbers(),
            minor in numbers(),
            access in accesses(0..8),
        ) -> Request {
            Request { kind, major, minor, access }
        }
    }

    proptest! {
        #[test]
        fn program_decides_as_the_rules_do(
            rules in prop::collection::vec(a_rule(), 0..12),
            default_allow: bool,
            requests in prop::collection::vec(a_request(), 1..40),
        ) {
            let rules = Rules { default_allow, rules };
            let program = instructions(&rules);
            prop_assert!(has_no_dead_code(&program));
            for request in requests {
                prop_assert_eq!(interpret(&program, request), rules.allow(request), "{:?}", request);
            }
        }
    }

    #[test]
    fn instruction_lies_in_memory_as_the_kernel_reads_it() {
        let jump = Instruction { code: 0x56, target: 4, source: 3, offset: 0x0102, value: -2 };
        assert_eq!(jump.encode().to_ne_bytes(), [0x56, 0x34, 2, 1, 0xfe, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn longest_program_has_offsets_that_fit() {
        let rule = Rule {
            allow: false,
            kind: Some(Kind::Block),
            major: Some(1),
            minor: Some(2),
            access: Access::all(),
        };
        let rules = Rules {
            default_allow: false,
            rules: vec![rule; super::super::devices::MAX_RULES + 32],
        };
        assert!(has_no_dead_code(&instructions(&rules)));
    }
}
