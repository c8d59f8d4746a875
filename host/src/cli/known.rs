//! Words of docker's that husk does not have: refused by name, so that nobody takes a spelling
//! mistake for a missing feature or the other way round.

use super::failure::Failure;

/// Flags of docker's `run`, `create` and `exec`.
const FLAGS: &[&str] = &[
    "--attach",
    "-a",
    "--cgroup-parent",
    "--expose",
    "--gpus",
    "--health-cmd",
    "--health-interval",
    "--health-retries",
    "--health-timeout",
    "--init",
    "--ip",
    "--ip6",
    "--isolation",
    "--link",
    "--log-driver",
    "--log-opt",
    "--mac-address",
    "--network-alias",
    "--no-healthcheck",
    "--publish",
    "-p",
    "--publish-all",
    "-P",
    "--restart",
    "--runtime",
    "--storage-opt",
    "--volume",
    "-v",
    "--volume-driver",
    "--volumes-from",
];

/// Flags that cannot be honoured, or not as docker's users mean them, and why.
const REFUSED: &[(&str, &str)] = &[
    ("--blkio-weight-device", DISKS),
    ("--device-read-bps", DISKS),
    ("--device-read-iops", DISKS),
    ("--device-write-bps", DISKS),
    ("--device-write-iops", DISKS),
    ("--kernel-memory", "Linux has no such limit any more"),
    ("--memory-swappiness", "cgroup v2 has no swappiness of a container's own"),
    ("--oom-kill-disable", "cgroup v2 cannot keep the kernel from it"),
];
const DISKS: &str =
    "disks of the host are not the guest's, and the container's own has no name yet";

/// Verbs of docker's.
const VERBS: &[&str] = &[
    "build",
    "commit",
    "container",
    "diff",
    "events",
    "export",
    "history",
    "image",
    "import",
    "info",
    "login",
    "logout",
    "network",
    "port",
    "pull",
    "push",
    "save",
    "search",
    "system",
    "tag",
    "volume",
];

/// What to say of a flag that is not husk's.
pub fn unknown_flag(verb: &str, word: &str) -> Failure {
    let name = match word.split_once('=') {
        Some((name, _)) => name,
        None => word,
    };
    if let Some((_, reason)) = REFUSED.iter().find(|(flag, _)| *flag == name) {
        return Failure::new(format!("{verb}: {name} is not supported: {reason}"));
    }
    // -p80:80 is -p.
    let short = name.get(..2).filter(|_| !name.starts_with("--"));
    let known = FLAGS.contains(&name) || short.is_some_and(|short| FLAGS.contains(&short));
    if known {
        Failure::new(format!("{verb}: {name} is not supported yet"))
    } else {
        Failure::new(format!("{verb}: unknown flag: {name} (see husk {verb} --help)"))
    }
}

/// What to say of a verb that is not husk's.
pub fn unknown_verb(word: &str) -> Failure {
    if VERBS.contains(&word) {
        Failure::new(format!("{word} is not supported yet"))
    } else {
        Failure::new(format!("unknown command: {word} (see husk --help)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_features_and_mistakes_are_told_apart() {
        assert!(unknown_flag("run", "--publish=80:80").message().contains("not supported yet"));
        assert!(unknown_flag("run", "-p80:80").message().contains("not supported yet"));
        let refused = unknown_flag("run", "--oom-kill-disable");
        assert!(refused.message().contains("not supported: cgroup v2"), "{}", refused.message());
        assert!(unknown_flag("run", "--bogus").message().contains("unknown flag: --bogus"));
        assert!(unknown_verb("pull").message().contains("not supported yet"));
        assert!(unknown_verb("pul").message().contains("unknown command"));
    }
}
