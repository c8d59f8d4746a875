//! Calls that programs of 32 bits can also make through one of two others, socketcall(2) and
//! ipc(2), by a number in its first argument: a rule for the call is one for that way too. Not so a
//! rule with arguments, which are in memory then, where no filter can look.

use super::policy::{Comparison, Operator};

/// linux/net.h: `SYS_*`, from 1.
const SOCKETCALL: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];
/// linux/ipc.h.
const IPC: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];
/// Above it is a version.
const IPC_NUMBER: u64 = 0xffff;

/// The other way to make a call: a call, and what its first argument is then.
#[must_use]
pub fn other_way(name: &str) -> Option<(&'static str, Comparison)> {
    let first = |mask, value| Comparison { argument: 0, mask, operator: Operator::Equal, value };
    if let Some((_, number)) = IPC.iter().find(|(call, _)| *call == name) {
        return Some(("ipc", first(IPC_NUMBER, *number)));
    }
    let (_, number) = SOCKETCALL.iter().zip(1..).find(|(call, _)| **call == name)?;
    Some(("socketcall", first(u64::from(u32::MAX), number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let number = |name| other_way(name).map(|(call, first)| (call, first.value));
        assert_eq!(number("socket"), Some(("socketcall", 1)));
        assert_eq!(number("sendmmsg"), Some(("socketcall", 20)));
        assert_eq!(number("shmget"), Some(("ipc", 23)));
        assert_eq!(number("read"), None);
    }
}
