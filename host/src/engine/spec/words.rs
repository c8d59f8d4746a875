//! What the fields of a spec are called on the command line, for refusals of the guest.

/// A field, or the words that the agent has for it, and its flag. The first that fits counts.
const FLAGS: [(&str, &str); 14] = [
    ("process.apparmorProfile", "--security-opt apparmor="),
    ("process.selinuxLabel", "--security-opt label="),
    ("linux.mountLabel", "--security-opt label="),
    ("linux.seccomp", "--security-opt seccomp="),
    ("process.capabilities", "--cap-add"),
    ("process.oomScoreAdj", "--oom-score-adj"),
    ("process.user.additionalGids", "--group-add"),
    ("resource limit", "--ulimit"),
    ("linux.sysctl", "--sysctl"),
    ("sysctl /proc/sys", "--sysctl"),
    ("linux.devices", "--device"),
    ("linux.resources.blockIO", "--blkio-weight"),
    ("linux.resources.cpu.", "--cpus and the like"),
    ("linux.resources.memory.", "--memory and the like"),
];

/// The guest's refusal, with the flag that it speaks of in brackets where that is known.
#[must_use]
pub fn with_flag(message: String) -> String {
    match FLAGS.iter().find(|(words, _)| message.contains(words)) {
        Some((_, flag)) if !message.ends_with(')') => format!("{message} (see {flag})"),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_flag() {
        let named = |message: &str| with_flag(message.to_owned());
        let refused = "process.apparmorProfile needs CONFIG_SECURITY_APPARMOR";
        assert_eq!(named(refused), format!("{refused} (see --security-opt apparmor=)"));
        assert_eq!(named("no space"), "no space");
        assert_eq!(named("linux.sysctl: no (do it)"), "linux.sysctl: no (do it)");
    }
}
