//! Words of docker's that husk does not have: refused by name, so that nobody takes a spelling
//! mistake for a missing feature or the other way round.

use super::failure::Failure;

/// Flags of docker's `run`, `create` and `exec`.
const FLAGS: &[&str] = &[
    "--add-host",
    "--annotation",
    "--attach",
    "-a",
    "--blkio-weight",
    "--cap-add",
    "--cap-drop",
    "--cgroup-parent",
    "--cgroupns",
    "--cpu-period",
    "--cpu-quota",
    "--cpu-shares",
    "-c",
    "--cpuset-cpus",
    "--cpuset-mems",
    "--device",
    "--device-cgroup-rule",
    "--device-read-bps",
    "--device-read-iops",
    "--device-write-bps",
    "--device-write-iops",
    "--dns",
    "--dns-option",
    "--dns-search",
    "--domainname",
    "--expose",
    "--gpus",
    "--group-add",
    "--health-cmd",
    "--health-interval",
    "--health-retries",
    "--health-timeout",
    "--init",
    "--ip",
    "--ip6",
    "--ipc",
    "--isolation",
    "--label",
    "-l",
    "--label-file",
    "--link",
    "--log-driver",
    "--log-opt",
    "--mac-address",
    "--memory-reservation",
    "--memory-swap",
    "--memory-swappiness",
    "--mount",
    "--net",
    "--network",
    "--network-alias",
    "--no-healthcheck",
    "--oom-kill-disable",
    "--oom-score-adj",
    "--pid",
    "--pids-limit",
    "--platform",
    "--privileged",
    "--publish",
    "-p",
    "--publish-all",
    "-P",
    "--pull",
    "--quiet",
    "-q",
    "--restart",
    "--runtime",
    "--security-opt",
    "--shm-size",
    "--stop-signal",
    "--stop-timeout",
    "--storage-opt",
    "--sysctl",
    "--ulimit",
    "--userns",
    "--uts",
    "--volume",
    "-v",
    "--volume-driver",
    "--volumes-from",
];

/// Verbs of docker's.
const VERBS: &[&str] = &[
    "build",
    "commit",
    "container",
    "cp",
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
    "pause",
    "port",
    "pull",
    "push",
    "rename",
    "restart",
    "save",
    "search",
    "stats",
    "system",
    "tag",
    "top",
    "unpause",
    "update",
    "volume",
];

/// What to say of a flag that is not husk's.
pub fn unknown_flag(verb: &str, word: &str) -> Failure {
    let name = match word.split_once('=') {
        Some((name, _)) => name,
        None => word,
    };
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
        assert!(unknown_flag("run", "--bogus").message().contains("unknown flag: --bogus"));
        assert!(unknown_verb("pull").message().contains("not supported yet"));
        assert!(unknown_verb("pul").message().contains("unknown command"));
    }
}
