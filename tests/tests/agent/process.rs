//! `process` of the spec.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::Container;
use serde_json::json;

use crate::{bed_or_skip, output, refusal};

#[test]
fn exit_status_is_the_process_own_or_128_and_the_signal() {
    let bed = bed_or_skip!();
    assert_eq!(bed.run(&Container::sh("exit 7")).unwrap().code, 7);
    // A first process dies of SIGKILL alone; a child shows the signal.
    assert_eq!(bed.run(&Container::sh("sh -c 'kill -TERM $$'; exit $?")).unwrap().code, 143);
}

#[test]
fn process_is_the_first_of_its_namespaces() {
    let bed = bed_or_skip!();
    let script = "echo $$; hostname; ls /proc | grep -c '^[0-9]'; cat /proc/self/cgroup; \
                  ip link | grep -c '^[0-9]'; ip addr show lo | grep -o 'inet 127.0.0.1'";
    let said = output(bed, &Container::sh(script));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["1", "inside"]);
    assert!(lines[2].parse::<u32>().unwrap() <= 3, "other processes are seen: {said}");
    assert_eq!(lines[3], "0::/");
    assert_eq!(lines[4..], ["1", "inet 127.0.0.1"]);
}

#[test]
fn user_groups_and_umask_are_those_of_the_spec() {
    let bed = bed_or_skip!();
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o077});
    let container =
        Container::sh("id -u; id -g; grep ^Groups /proc/self/status; umask; echo $HOME")
            .with("/process/user", user);
    let said = output(bed, &container);
    assert_eq!(said, "1000\n1001\nGroups:\t5 6 1001 \n0077\n/\n".replace("5 6 1001", "5 6"));
}

#[test]
fn user_by_name_is_looked_up_in_the_container() {
    let bed = bed_or_skip!();
    let named = |name: &str| {
        Container::sh("id -u; id -g; grep ^Groups /proc/self/status; echo $HOME")
            .with("/process/user/username", json!(name))
    };
    assert_eq!(output(bed, &named("web")), "33\n34\nGroups:\t50 \n/var/data\n");
    assert_eq!(output(bed, &named("web:logs")), "33\n50\nGroups:\t \n/var/data\n");
    let refused = refusal(bed.run(&named("nobody")));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("unable to find user nobody"), "{refused:?}");
}

#[test]
fn capabilities_are_those_of_the_spec_in_all_five_sets() {
    let bed = bed_or_skip!();
    let sets = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"],
        "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    let container = Container::new(&["grep", "^Cap", "/proc/self/status"])
        .with("/process/capabilities", sets)
        .with("/process/user/uid", json!(1000));
    let kill = "0000000000000020";
    let expected = format!(
        "CapInh:\t{kill}\nCapPrm:\t{kill}\nCapEff:\t{kill}\nCapBnd:\t0000000000000021\n\
         CapAmb:\t{kill}\n"
    );
    assert_eq!(output(bed, &container), expected);
}

#[test]
fn process_without_capabilities_has_none() {
    let bed = bed_or_skip!();
    let container =
        Container::sh("grep -E '^Cap(Eff|Bnd)' /proc/self/status; mount -t tmpfs x /tmp")
            .with("/process/capabilities", json!(null));
    let ended = bed.run(&container).unwrap();
    assert_eq!(ended.stdout, "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n");
    assert!(ended.stderr.contains("permission denied"), "{ended:?}");
}

#[test]
fn limits_scores_and_no_new_privileges_reach_the_process() {
    let bed = bed_or_skip!();
    let container = Container::sh(
        "ulimit -S -n; ulimit -H -n; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status",
    )
    .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]))
    .with("/process/oomScoreAdj", json!(500))
    .with("/process/noNewPrivileges", json!(true));
    assert_eq!(output(bed, &container), "100\n200\n500\nNoNewPrivs:\t1\n");
}

#[test]
fn environment_is_the_specs_and_nothing_of_the_agents() {
    let bed = bed_or_skip!();
    let container = Container::new(&["env"])
        .with("/process/env", json!(["PATH=/bin", "A=1", "EMPTY=", "WITH=a=b c"]));
    let said = output(bed, &container);
    assert_eq!(said, "PATH=/bin\nA=1\nEMPTY=\nWITH=a=b c\nHOME=/root\n");
}

#[test]
fn signals_are_neither_ignored_nor_blocked() {
    let bed = bed_or_skip!();
    let container = Container::new(&["grep", "^Sig[BIC]", "/proc/self/status"]);
    let none = "0000000000000000";
    let expected = format!("SigBlk:\t{none}\nSigIgn:\t{none}\nSigCgt:\t{none}\n");
    assert_eq!(output(bed, &container), expected);
}

#[test]
fn process_has_no_descriptor_but_its_streams() {
    let bed = bed_or_skip!();
    // 3 is the open folder itself.
    let container = Container::new(&["ls", "/proc/self/fd"]);
    assert_eq!(output(bed, &container), "0\n1\n2\n3\n");
}

#[test]
fn working_folder_is_made_and_must_be_a_folder() {
    let bed = bed_or_skip!();
    let at = |cwd: &str| Container::new(&["pwd"]).with("/process/cwd", json!(cwd));
    assert_eq!(output(bed, &at("/new/folder")), "/new/folder\n");
    let refused = refusal(bed.run(&at("/etc/passwd")));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("not a directory"), "{refused:?}");
}

#[test]
fn command_that_cannot_be_run_says_why_at_creation() {
    let bed = bed_or_skip!();
    for (command, kind, words) in [
        ("nothing", ErrorKind::CommandNotFound, "executable file not found in $PATH"),
        ("/bin/nothing", ErrorKind::CommandNotFound, "no such file or directory"),
        ("/etc/data", ErrorKind::CommandNotExecutable, "permission denied"),
        ("/etc", ErrorKind::CommandNotExecutable, "is a directory"),
    ] {
        let refused = refusal(bed.run(&Container::new(&[command])));
        assert_eq!(refused.kind, kind, "{refused:?}");
        assert!(refused.message.contains(words), "{refused:?}");
    }
}

#[test]
fn command_that_the_kernel_refuses_says_why_at_start() {
    let bed = bed_or_skip!();
    let refused = refusal(bed.run(&Container::new(&["broken"])));
    assert_eq!(refused.kind, ErrorKind::CommandNotFound);
    assert!(refused.message.contains("no such file or directory"), "{refused:?}");
    let refused = refusal(bed.run(&Container::new(&["garbage"])));
    assert_eq!(refused.kind, ErrorKind::CommandNotExecutable);
    assert!(refused.message.contains("exec format error"), "{refused:?}");
}

#[test]
fn names_of_the_container_are_its_own() {
    let bed = bed_or_skip!();
    let container =
        Container::new(&["cat", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname"])
            .with("/hostname", json!("web"))
            .with("/domainname", json!("example"));
    assert_eq!(output(bed, &container), "web\nexample\n");
    let other = Container::new(&["cat", "/proc/sys/kernel/domainname"]);
    assert_eq!(output(bed, &other), "(none)\n");
}

#[test]
fn sysctl_is_set_inside_and_that_of_the_guest_is_refused() {
    let bed = bed_or_skip!();
    let container = Container::new(&["cat", "/proc/sys/net/core/somaxconn"])
        .with("/linux/sysctl", json!({"net.core.somaxconn": "77"}));
    assert_eq!(output(bed, &container), "77\n");
    let other = Container::new(&["cat", "/proc/sys/net/core/somaxconn"]);
    assert_ne!(output(bed, &other), "77\n");
    let guest = Container::sh("true").with("/linux/sysctl", json!({"vm.swappiness": "1"}));
    let refused = refusal(bed.run(&guest));
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    assert!(refused.message.contains("use --guest-sysctl"), "{refused:?}");
}

#[test]
fn user_who_is_not_root_can_open_its_streams_again() {
    let bed = bed_or_skip!();
    let container = Container::sh("echo out > /dev/stdout; echo err > /dev/stderr")
        .with("/process/user/uid", json!(1000));
    let ended = bed.run(&container).unwrap();
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
}
