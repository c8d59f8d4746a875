//! `process` of the spec, what is rarely asked for: scheduling, personality, security modules,
//! sizes of terminals; and what an exec has from its container.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::{Value, json};

use crate::{bed_or_skip, execs, output, refusal};

fn scheduling() -> Container {
    Container::new(&["probe", "scheduling"])
}

/// What one process says in such a container.
fn exec(bed: &Bed, container: &Container, process: Value) -> String {
    let ended = execs(bed, container, &[process]).remove(0).unwrap();
    ended.stdout + &ended.stderr
}

fn sleeping() -> Container {
    Container::new(&["sleep", "1000"])
}

fn with(mut process: Value, field: &str, value: Value) -> Value {
    process[field] = value;
    process
}

#[test]
fn scheduler_is_that_of_the_spec() {
    let bed = bed_or_skip!();
    for (value, expected) in [
        (json!({"policy": "SCHED_BATCH", "nice": 7}), "policy 3 flags 0 nice 7 priority 0"),
        (json!({"policy": "SCHED_OTHER", "nice": -5}), "policy 0 flags 0 nice -5 priority 0"),
        (json!({"policy": "SCHED_IDLE"}), "policy 5 flags 0 nice 0 priority 0"),
        (
            json!({"policy": "SCHED_RR", "priority": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
            "policy 2 flags 1 nice 0 priority 3",
        ),
        (json!({"policy": "SCHED_FIFO", "priority": 99}), "policy 1 flags 0 nice 0 priority 99"),
    ] {
        let said = output(bed, &scheduling().with("/process/scheduler", value.clone()));
        assert!(said.starts_with(expected), "{value}: {said}");
    }
}

#[test]
fn deadline_scheduler_has_its_times() {
    let bed = bed_or_skip!();
    let value = json!({
        "policy": "SCHED_DEADLINE", "runtime": 50_000_000, "deadline": 90_000_000,
        "period": 100_000_000,
    });
    let said = output(bed, &scheduling().with("/process/scheduler", value));
    assert!(said.starts_with("policy 6"), "{said}");
    assert!(said.contains("runtime 50000000 deadline 90000000 period 100000000"), "{said}");
}

#[test]
fn scheduler_that_makes_no_sense_is_refused_by_name() {
    let bed = bed_or_skip!();
    for (value, field) in [
        (json!({"policy": "SCHED_X"}), "process.scheduler.policy"),
        (json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler.nice"),
        (json!({"policy": "SCHED_FIFO", "priority": 100}), "process.scheduler.priority"),
        (json!({"policy": "SCHED_OTHER", "runtime": 5}), "process.scheduler"),
    ] {
        let refused = refusal(bed.run(&scheduling().with("/process/scheduler", value)));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains(field), "{refused:?}");
    }
}

#[test]
fn io_priority_is_that_of_the_spec() {
    let bed = bed_or_skip!();
    for (class, level, expected) in
        [("RT", 2, "io 1 2"), ("BE", 7, "io 2 7"), ("IDLE", 0, "io 3 0")]
    {
        let value = json!({"class": format!("IOPRIO_CLASS_{class}"), "priority": level});
        let said = output(bed, &scheduling().with("/process/ioPriority", value));
        assert_eq!(said.lines().nth(1), Some(expected), "{said}");
    }
    let value = json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
    let refused = refusal(bed.run(&scheduling().with("/process/ioPriority", value)));
    assert!(refused.message.contains("process.ioPriority.priority"), "{refused:?}");
}

#[test]
fn exec_has_its_own_scheduling_or_its_containers() {
    let bed = bed_or_skip!();
    let container = sleeping()
        .with("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 3}))
        .with("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}));
    let plain = process(&["probe", "scheduling"]);
    let own = with(plain.clone(), "scheduler", json!({"policy": "SCHED_OTHER", "nice": 4}));
    let own = with(own, "ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 1}));
    let said: Vec<String> = execs(bed, &container, &[plain, own])
        .into_iter()
        .map(|ended| ended.unwrap().stdout)
        .collect();
    assert!(
        said[0].starts_with("policy 3 flags 0 nice 3 ") && said[0].contains("io 3 0"),
        "{said:?}"
    );
    assert!(
        said[1].starts_with("policy 0 flags 0 nice 4 ") && said[1].contains("io 2 1"),
        "{said:?}"
    );
}

#[test]
fn exec_runs_on_the_cpus_it_asks_for() {
    let bed = bed_or_skip!();
    let affinity = |value: Value| with(process(&["probe", "scheduling"]), "execCPUAffinity", value);
    let said = exec(bed, &sleeping(), affinity(json!({"initial": "0", "final": "0,63"})));
    assert!(said.contains("cpus 1\n"), "{said}");
    let none = execs(bed, &sleeping(), &[affinity(json!({"final": "1000"}))]).remove(0);
    assert!(refusal(none).message.contains("set the final CPUs"));
    let none = execs(bed, &sleeping(), &[affinity(json!({"initial": "1000"}))]).remove(0);
    assert!(refusal(none).message.contains("set the initial CPUs"));
    for list in ["3-1", "0-", "4096", "x"] {
        let refused =
            refusal(execs(bed, &sleeping(), &[affinity(json!({"final": list}))]).remove(0));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains("execCPUAffinity"), "{refused:?}");
    }
}

#[test]
fn affinity_in_a_containers_spec_is_for_its_execs() {
    let bed = bed_or_skip!();
    // The first process would fail by it.
    let container = sleeping().with("/process/execCPUAffinity", json!({"final": "1000"}));
    let ended = execs(bed, &container, &[process(&["true"])]).remove(0);
    assert!(refusal(ended).message.contains("set the final CPUs"));
}

#[test]
fn personality_is_the_containers_in_every_process() {
    let bed = bed_or_skip!();
    let persona = |domain: &str| json!({"domain": domain});
    let linux32 = scheduling().with("/linux/personality", persona("LINUX32"));
    assert!(output(bed, &linux32).contains("personality 8\n"));
    let linux = scheduling().with("/linux/personality", persona("LINUX"));
    assert!(output(bed, &linux).contains("personality 0\n"));
    let container = sleeping().with("/linux/personality", persona("LINUX32"));
    assert!(exec(bed, &container, process(&["probe", "scheduling"])).contains("personality 8\n"));
    for (value, field) in [
        (persona("BSD"), "linux.personality.domain"),
        (json!({"domain": "LINUX", "flags": ["X"]}), "linux.personality.flags"),
    ] {
        let refused = refusal(bed.run(&scheduling().with("/linux/personality", value)));
        assert!(refused.message.contains(field), "{refused:?}");
    }
}

#[test]
fn terminal_has_the_size_of_the_spec_in_a_container_and_an_exec() {
    let bed = bed_or_skip!();
    let container = Container::new(&["stty", "size"])
        .terminal()
        .with("/process/consoleSize", json!({"height": 33, "width": 77}));
    assert_eq!(bed.run(&container).unwrap().stdout, "33 77\r\n");
    let exec_of = with(process(&["stty", "size"]), "terminal", json!(true));
    let exec_of = with(exec_of, "consoleSize", json!({"height": 12, "width": 34}));
    assert_eq!(exec(bed, &sleeping(), exec_of), "12 34\r\n");
    let huge = container.with("/process/consoleSize", json!({"height": 70000, "width": 1}));
    assert!(refusal(bed.run(&huge)).message.contains("process.consoleSize"));
}

#[test]
fn security_module_that_the_kernel_lacks_is_named_by_its_option() {
    let bed = bed_or_skip!();
    for (field, option) in [
        ("/process/apparmorProfile", "CONFIG_SECURITY_APPARMOR"),
        ("/process/selinuxLabel", "CONFIG_SECURITY_SELINUX"),
        ("/linux/mountLabel", "CONFIG_SECURITY_SELINUX"),
    ] {
        let refused = refusal(bed.run(&Container::new(&["true"]).with(field, json!("web"))));
        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(refused.message.contains(option), "{refused:?}");
    }
    let profile = with(process(&["true"]), "apparmorProfile", json!("web"));
    let label = with(process(&["true"]), "selinuxLabel", json!("web"));
    let [profile, label] =
        execs(bed, &sleeping(), &[profile, label]).try_into().expect("two were asked for");
    assert!(refusal(profile).message.contains("CONFIG_SECURITY_APPARMOR"));
    assert!(refusal(label).message.contains("CONFIG_SECURITY_SELINUX"));
}

#[test]
fn unconfined_profile_asks_for_nothing() {
    let bed = bed_or_skip!();
    let container =
        Container::new(&["echo", "runs"]).with("/process/apparmorProfile", json!("unconfined"));
    assert_eq!(output(bed, &container), "runs\n");
    let exec_of = with(process(&["echo", "runs"]), "apparmorProfile", json!("unconfined"));
    assert_eq!(exec(bed, &sleeping(), exec_of), "runs\n");
}

#[test]
fn unknown_words_are_refused_with_their_field() {
    let bed = bed_or_skip!();
    for (field, value, words) in [
        (
            "/process/capabilities",
            json!({"bounding": ["CAP_FLY"]}),
            "process.capabilities.bounding: \"CAP_FLY\" is unknown",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_FUN", "soft": 1, "hard": 1}]),
            "process.rlimits.type: \"RLIMIT_FUN\" is unknown",
        ),
        (
            "/process/capabilities",
            json!({"inheritable": ["CAP_KILL"]}),
            "inheritable has what bounding has not",
        ),
        ("/process/commandLine", json!("dir"), "process.commandLine is not supported"),
    ] {
        let refused = refusal(bed.run(&Container::new(&["true"]).with(field, value)));
        assert!(refused.message.contains(words), "{refused:?}");
    }
}

#[test]
fn exec_can_have_capabilities_beyond_its_containers() {
    let bed = bed_or_skip!();
    let show = || process(&["grep", "-E", "^Cap(Eff|Bnd)", "/proc/self/status"]);
    let sets = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    let sets = json!({"bounding": sets, "effective": sets, "permitted": sets});
    let container = sleeping().with("/process/capabilities", json!({"bounding": ["CAP_KILL"]}));
    let said = exec(bed, &container, with(show(), "capabilities", sets));
    assert_eq!(said, "CapEff:\t0000000000201000\nCapBnd:\t0000000000201000\n");
    // One that says nothing has its container's.
    let said = exec(bed, &container, with(show(), "capabilities", json!(null)));
    assert_eq!(said, "CapEff:\t0000000000000020\nCapBnd:\t0000000000000020\n");
}

#[test]
fn exec_has_its_own_privileges_and_limits_or_its_containers() {
    let bed = bed_or_skip!();
    let container = sleeping()
        .with("/process/noNewPrivileges", json!(true))
        .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]));
    let script = "grep NoNewPrivs /proc/self/status; probe limit nofile; umask; id -G";
    let silent = process(&["sh", "-c", script]);
    let own = with(silent.clone(), "noNewPrivileges", json!(false));
    let own = with(own, "rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}]));
    let user = json!({"uid": 7, "gid": 8, "umask": 0o027, "additionalGids": [9]});
    let own = with(own, "user", user);
    let said: Vec<String> = execs(bed, &container, &[silent, own])
        .into_iter()
        .map(|ended| ended.unwrap().stdout)
        .collect();
    assert_eq!(said[0], "NoNewPrivs:\t1\n100 200\n0022\n0\n");
    assert_eq!(said[1], "NoNewPrivs:\t0\n50 60\n0027\n8 9\n");
}

#[test]
fn exec_has_its_own_oom_score() {
    let bed = bed_or_skip!();
    let show = process(&["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(exec(bed, &sleeping(), with(show, "oomScoreAdj", json!(321))), "321\n");
}
