//! Numbers of system calls. `syscalls.txt` has a line for each: its name, and its number for
//! x86_64, x86 and x32, as in the kernel's arch/x86/entry/syscalls; new ones are added by hand.

use std::sync::LazyLock;

/// Sorted by name.
const TABLE: &str = include_str!("syscalls.txt");
/// Marks the numbers of x32: `__X32_SYSCALL_BIT`, asm/unistd.h.
pub const X32_BIT: u32 = 0x4000_0000;

/// Conventions of calling that this machine's kernels can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// The machine's own.
    X86_64,
    /// 32 bits.
    X86,
    /// 64 bits, with pointers of 32.
    X32,
}

impl Abi {
    /// The lowest number.
    #[must_use]
    pub fn first_number(self) -> u32 {
        match self {
            Self::X86_64 | Self::X86 => 0,
            Self::X32 => X32_BIT,
        }
    }

    /// The number of a call, `None` when there is none of this name.
    #[must_use]
    pub fn number(self, name: &str) -> Option<u32> {
        let index = NUMBERS.binary_search_by_key(&name, |entry| entry.name).ok()?;
        let number = NUMBERS.get(index)?.numbers[self as usize]?;
        Some(u32::from(number) + self.first_number())
    }
}

struct Entry {
    name: &'static str,
    numbers: [Option<u16>; 3],
}

static NUMBERS: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    TABLE
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            Entry { name, numbers: [(); 3].map(|()| words.next()?.parse().ok()) }
        })
        .collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_numbers_that_the_kernel_gives_them() {
        assert_eq!(Abi::X86_64.number("execve"), Some(59));
        assert_eq!(Abi::X86.number("execve"), Some(11));
        assert_eq!(Abi::X32.number("execve"), Some(X32_BIT + 520));
        assert_eq!(Abi::X32.number("getpid"), Some(X32_BIT + 39));
        assert_eq!(Abi::X86_64.number("socketcall"), None);
        assert_eq!(Abi::X86_64.number("no_such_call"), None);
        assert_eq!(Abi::X86_64.number("bpf"), u32::try_from(libc::SYS_bpf).ok());
    }

    #[test]
    fn table_is_sorted_and_every_line_is_whole() {
        let names: Vec<&str> = NUMBERS.iter().map(|entry| entry.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b));
        for line in TABLE.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |word: &&str| *word == "-" || word.parse::<u16>().is_ok_and(|n| n < 1000);
            assert!(words.len() == 4 && words[1..].iter().all(number), "{line}");
        }
    }
}
