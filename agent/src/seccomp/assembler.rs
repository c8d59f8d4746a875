//! Writes cBPF from its end to its beginning: jumps only lead forward, so all that an instruction
//! leads to is there when it is written. Knows nothing of rules.

use std::collections::HashMap;

/// linux/bpf_common.h: load a word from the system call's data; AND; return a constant.
pub const LOAD: u16 = 0x20;
pub const AND: u16 = 0x54;
pub const RETURN: u16 = 0x06;
/// Jumps: always; by comparison of the accumulator with a constant.
pub const JUMP: u16 = 0x05;
pub const JUMP_EQUAL: u16 = 0x15;
pub const JUMP_GREATER: u16 = 0x25;
pub const JUMP_GREATER_OR_EQUAL: u16 = 0x35;

/// `BPF_MAXINSNS`, linux/bpf_common.h.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// How far a target may be for a comparison, whose way is one byte. Less than 255, as a far jump
/// for its other target may come between.
const REACH: usize = 250;

/// `struct sock_filter`, linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many to leave out when a comparison holds.
    pub yes: u8,
    /// How many to leave out when it does not.
    pub no: u8,
    /// The constant.
    pub constant: u32,
}

impl Instruction {
    /// As the kernel has it, little-endian.
    #[must_use]
    pub fn bytes(self) -> [u8; 8] {
        let [a, b] = self.code.to_le_bytes();
        let [e, f, g, h] = self.constant.to_le_bytes();
        [a, b, self.yes, self.no, e, f, g, h]
    }
}

/// A place in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program, from its end.
#[derive(Debug, Default)]
pub struct Assembler {
    reversed: Vec<Instruction>,
    returns: HashMap<u32, Label>,
}

impl Assembler {
    fn push(&mut self, code: u16, yes: u8, no: u8, constant: u32) -> Label {
        self.reversed.push(Instruction { code, yes, no, constant });
        Label(self.reversed.len() - 1)
    }

    /// What an instruction that is written next leaves out to come to a label.
    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - to.0 - 1
    }

    /// A place near enough for a comparison that leads to the label.
    fn near(&mut self, to: Label) -> Label {
        match self.distance(to) {
            distance if distance <= REACH => to,
            distance => self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX)),
        }
    }

    /// Ends with this value.
    pub fn end(&mut self, value: u32) -> Label {
        match self.returns.get(&value) {
            Some(&label) if self.distance(label) <= REACH => label,
            // One more is no longer than a jump to it.
            _ => {
                let label = self.push(RETURN, 0, 0, value);
                self.returns.insert(value, label);
                label
            }
        }
    }

    /// Compares the accumulator with a constant.
    pub fn test(&mut self, code: u16, constant: u32, yes: Label, no: Label) -> Label {
        let (yes, no) = (self.near(yes), self.near(no));
        let way = |to| u8::try_from(self.distance(to)).unwrap_or(u8::MAX);
        let (yes, no) = (way(yes), way(no));
        self.push(code, yes, no, constant)
    }

    /// Makes what is written next lead to the label.
    pub fn continue_at(&mut self, to: Label) {
        match self.distance(to) {
            0 => {}
            distance => {
                self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX));
            }
        }
    }

    /// Keeps these bits of the accumulator for what was written last.
    pub fn and(&mut self, mask: u32) -> Label {
        self.push(AND, 0, 0, mask)
    }

    /// Loads the accumulator for what was written last.
    pub fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, 0, 0, offset)
    }

    /// The program, which begins with what was written last; `None` when the kernel takes none of
    /// this length.
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<Instruction>> {
        self.reversed.reverse();
        (self.reversed.len() <= MAX_INSTRUCTIONS).then_some(self.reversed)
    }
}
