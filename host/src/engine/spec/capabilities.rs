//! Which capabilities a container's processes have: docker's words, and its order of adding and
//! taking away.

use crate::engine::record::Security;

/// Every capability of the guest's kernel, linux/capability.h, in the order of their numbers.
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// docker's default set: enough for a root that is root of its container alone.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// docker's word for all of them.
const EVERY: &str = "ALL";

/// A capability as records have it: `CAP_NET_ADMIN` of `net_admin`, or `ALL`.
///
/// # Errors
/// docker's words for one that there is not.
pub fn normalize(word: &str) -> Result<String, String> {
    let upper = word.trim().to_ascii_uppercase();
    if upper == EVERY {
        return Ok(upper);
    }
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    if ALL.contains(&name.as_str()) {
        Ok(name)
    } else {
        Err(format!("invalid capability: {name:?}"))
    }
}

/// What a container's processes have, each once. `ALL` that is added loses what is dropped; `ALL`
/// that is dropped leaves what is added; else the default loses what is dropped and gains what is
/// added, so that adding wins.
#[must_use]
pub fn effective(security: &Security) -> Vec<&str> {
    let (add, drop) = (&security.cap_add, &security.cap_drop);
    let named = |list: &[String], name: &str| list.iter().any(|other| other == name);
    let kept = |name: &&str| !named(drop, name);
    if security.privileged {
        return ALL.to_vec();
    }
    if named(add, EVERY) {
        return ALL.into_iter().filter(kept).collect();
    }
    let mut set: Vec<&str> = match named(drop, EVERY) {
        true => Vec::new(),
        false => DEFAULT.into_iter().filter(kept).collect(),
    };
    for name in add {
        if !set.contains(&name.as_str()) {
            set.push(name);
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(add: &[&str], drop: &[&str]) -> Security {
        let names = |list: &[&str]| list.iter().map(|name| normalize(name).unwrap()).collect();
        Security { cap_add: names(add), cap_drop: names(drop), ..Security::default() }
    }

    #[test]
    fn names_are_taken_in_every_spelling_of_dockers() {
        for (word, name) in [
            ("net_admin", "CAP_NET_ADMIN"),
            ("NET_ADMIN", "CAP_NET_ADMIN"),
            ("cap_sys_ptrace", "CAP_SYS_PTRACE"),
            ("all", "ALL"),
        ] {
            assert_eq!(normalize(word).unwrap(), name);
        }
        assert_eq!(normalize("nope").unwrap_err(), "invalid capability: \"CAP_NOPE\"");
        assert!(normalize("").is_err());
    }

    #[test]
    fn adding_and_dropping_come_out_as_dockers() {
        assert_eq!(effective(&with(&[], &[])), DEFAULT);
        assert_eq!(effective(&with(&["chown"], &["chown"])).last(), Some(&"CAP_CHOWN"));
        assert_eq!(effective(&with(&["net_admin"], &["all"])), ["CAP_NET_ADMIN"]);
        let all_but_one = with(&["all"], &["sys_admin"]);
        let all_but_one = effective(&all_but_one);
        assert_eq!(all_but_one.len(), 40);
        assert!(!all_but_one.contains(&"CAP_SYS_ADMIN"));
        assert_eq!(effective(&with(&["all"], &["all"])).len(), 41);
        assert_eq!(effective(&with(&[], &["all"])), Vec::<&str>::new());
        assert_eq!(effective(&with(&["kill"], &[])), DEFAULT);
        let privileged = Security { privileged: true, ..with(&[], &["all"]) };
        assert_eq!(effective(&privileged), ALL);
    }
}
