//! Hooks that fail, hang, leave something behind, or cannot be run: runtime.md, "Lifecycle", says
//! what becomes of the container.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Container, FILES};
use serde_json::json;

use crate::{
    bed_or_skip,
    hooks::{begin, file_of, inner_hook, processes_with, with_hooks},
    output, refusal,
};

#[test]
fn failing_hook_of_creation_is_told_and_leaves_nothing() {
    let bed = bed_or_skip!();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let container = Container::sh("true");
        let (path, name) = file_of(&container);
        let fails = bed.guest_hook("echo some words >&2; exit 3");
        let never = bed.guest_hook(&format!("echo never >> {path}"));
        let poststop = bed.guest_hook(&format!("echo poststop >> {path}"));
        let hooks = json!({kind: [fails, never], "poststop": [poststop]});
        let refused = refusal(bed.run(&with_hooks(container.clone(), hooks)));
        assert_eq!(refused.kind, ErrorKind::Internal);
        let words = [format!("hooks.{kind}[0]"), "exit status 3: some words".to_owned()];
        assert!(words.iter().all(|words| refused.message.contains(words)), "{refused:?}");
        assert!(!bed.block_on(bed.list()).unwrap().contains(&container.id));
        assert_eq!(bed.written(&name), "poststop\n");
        // The id is free again.
        output(bed, &container);
    }
}

#[test]
fn failing_start_container_hook_stops_the_container() {
    let bed = bed_or_skip!();
    // The second one is a real-time signal, which has no name: signal(7).
    for signal in [9, 40] {
        let container = Container::sh("echo never");
        let (path, name) = file_of(&container);
        let hooks = json!({
            "startContainer": [inner_hook(&format!("echo words; kill -{signal} $$"))],
            "poststop": [bed.guest_hook(&format!("echo poststop >> {path}"))],
        });
        let container = with_hooks(container, hooks);
        bed.block_on(async {
            let (step, refused) = begin(bed, &container).await.unwrap_err();
            assert_eq!(step, "start");
            assert!(refused.message.contains("hooks.startContainer[0]"), "{refused:?}");
            let words = format!("killed by signal {signal}: words");
            assert!(refused.message.contains(&words), "{refused:?}");
            bed.wait(&container.id, "").await.unwrap();
            bed.delete(&container.id).await.unwrap();
        });
        assert_eq!(bed.written(&name), "poststop\n");
    }
}

#[test]
fn failing_poststart_hook_stops_the_container() {
    let bed = bed_or_skip!();
    let container = Container::new(&["sleep", "1000"]);
    let container = with_hooks(container, json!({"poststart": [bed.guest_hook("exit 4")]}));
    bed.block_on(async {
        let (step, refused) = begin(bed, &container).await.unwrap_err();
        assert_eq!(step, "start");
        assert!(refused.message.contains("hooks.poststart[0]"), "{refused:?}");
        assert_eq!(bed.wait(&container.id, "").await.unwrap().0, 128 + 9);
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn failing_poststop_hook_keeps_nothing_from_going() {
    let bed = bed_or_skip!();
    let container = Container::sh("true");
    let (path, name) = file_of(&container);
    let missing = json!({"path": "/no/such/program"});
    let last = bed.guest_hook(&format!("echo last >> {path}"));
    let hooks = json!({"poststop": [bed.guest_hook("exit 1"), missing, last]});
    output(bed, &with_hooks(container.clone(), hooks));
    assert_eq!(bed.written(&name), "last\n");
    assert!(!bed.block_on(bed.list()).unwrap().contains(&container.id));
}

#[test]
fn hook_that_runs_too_long_is_killed_with_all_it_has_started() {
    let bed = bed_or_skip!();
    for kind in ["createRuntime", "createContainer"] {
        let container = Container::sh("true");
        let mark = format!("mark-{}", container.id);
        // One that leaves the session, and one that stays.
        let run =
            format!("{FILES}/busybox-hook sh -c \"while true; do sleep 0.1; done; : {mark}\"");
        let script =
            format!("{FILES}/busybox-hook setsid {run} & {run} & echo asleep; wait; : {mark}");
        let mut hook = bed.guest_hook(&script);
        // Enough to come as far as its words.
        hook["timeout"] = json!(6);
        let refused = refusal(bed.run(&with_hooks(container, json!({kind: [hook]}))));
        assert!(refused.message.contains(&format!("hooks.{kind}[0]")), "{refused:?}");
        assert!(refused.message.contains("still runs after 6 s"), "{refused:?}");
        assert!(refused.message.ends_with(": asleep"), "{refused:?}");
        assert_eq!(processes_with(bed, &mark), 0);
    }
}

#[test]
fn start_container_hook_that_runs_too_long_is_killed() {
    let bed = bed_or_skip!();
    let mut hook = inner_hook("sleep 1000 & sleep 1000");
    hook["timeout"] = json!(1);
    let container = with_hooks(Container::sh("true"), json!({"startContainer": [hook]}));
    let refused = refusal(bed.run(&container));
    assert!(refused.message.contains("hooks.startContainer[0]"), "{refused:?}");
    assert!(refused.message.contains("still runs after 1 s"), "{refused:?}");
}

#[test]
fn what_a_hook_of_the_guest_leaves_behind_ends_with_it() {
    let bed = bed_or_skip!();
    let container = Container::sh("true");
    let mark = format!("mark-{}", container.id);
    let run = format!("{FILES}/busybox-hook sh -c \"while true; do sleep 0.1; done; : {mark}\"");
    let hook = bed.guest_hook(&format!("{FILES}/busybox-hook setsid {run} & :"));
    output(bed, &with_hooks(container, json!({"createRuntime": [hook]})));
    assert_eq!(processes_with(bed, &mark), 0);
}

#[test]
fn hook_whose_program_is_missing_or_cannot_be_executed_is_named() {
    let bed = bed_or_skip!();
    bed.block_on(bed.bring("data", b"no program\n", 0o644)).unwrap();
    let data = format!("{FILES}/data");
    for (kind, path) in [
        ("createRuntime", "/no/such"),
        ("createContainer", "/bin/busybox"),
        ("createRuntime", data.as_str()),
        ("startContainer", data.as_str()),
    ] {
        let container = with_hooks(Container::sh("true"), json!({kind: [{"path": path}]}));
        let refused = refusal(bed.run(&container));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        let words = format!("hooks.{kind}[0] ({path}): find its program");
        assert!(refused.message.contains(&words), "{refused:?}");
    }
}

#[test]
fn hook_that_makes_no_sense_is_refused_by_its_name() {
    let bed = bed_or_skip!();
    for (hook, part) in [
        (json!({"path": "relative"}), "hooks.poststart[0].path"),
        (json!({"path": "/x", "timeout": 0}), "hooks.poststart[0].timeout"),
        (json!({"path": "/x", "timeout": -5}), "hooks.poststart[0].timeout"),
    ] {
        let container = with_hooks(Container::sh("true"), json!({"poststart": [hook]}));
        let refused = refusal(bed.run(&container));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains(part), "{refused:?}");
    }
}
