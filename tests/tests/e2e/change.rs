//! Verbs on containers that are there: pause, unpause, restart, rename, update, top, stats.

use husk_tests::wait::{at_rest, eventually};
use husk_tests::{BUSYBOX, Bed};
use serde_json::{Value, json};

use crate::life::await_log;

#[test]
fn paused_container_stands_still_until_it_goes_on() {
    let bed = Bed::new();
    bed.start_sh("box", "while :; do echo tick; sleep 0.1; done");
    let lines = || bed.husk(&["logs", "box"]).ok().out().lines().count();
    eventually("it ticks", || (lines() > 2).then_some(()));
    assert_eq!(bed.husk(&["pause", "box"]).ok().out(), "box");
    let state = bed.inspect("box")["State"].clone();
    assert_eq!((&state["Status"], &state["Paused"]), (&json!("paused"), &json!(true)));
    assert_eq!(state["Running"], true);
    let status = bed.husk(&["ps", "--format", "{{.Status}}"]).ok().out();
    assert!(status.starts_with("Up ") && status.ends_with(" (Paused)"), "{status}");
    assert_eq!(
        bed.husk(&["ps", "-f", "status=paused", "--format", "{{.Names}}"]).ok().out(),
        "box"
    );
    bed.husk(&["pause", "box"]).output().refused_with(125, &["pause box", "already paused"]);
    bed.exec_sh("box", "true").output().refused_with(125, &["is paused", "unpause it first"]);
    // What was under way has arrived after a moment; nothing comes after it.
    let before = at_rest("what it has written", lines);
    assert_eq!(bed.husk(&["unpause", "box"]).ok().out(), "box");
    eventually("it ticks on", || (lines() > before).then_some(()));
    bed.husk(&["unpause", "box"]).output().refused_with(125, &["unpause box", "not paused"]);
    assert_eq!(bed.state("box").as_deref(), Some("running"));
}

#[test]
fn paused_container_can_be_stopped_and_killed() {
    let bed = Bed::new();
    bed.start_sh("polite", "trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done");
    await_log(&bed, "polite", "ready");
    bed.husk(&["pause", "polite"]).ok();
    bed.husk(&["stop", "-t", "60", "polite"]).ok();
    let state = bed.inspect("polite")["State"].clone();
    assert_eq!((&state["ExitCode"], &state["Paused"]), (&json!(4), &json!(false)));
    bed.start_sh("other", "sleep 1000");
    bed.husk(&["pause", "other"]).ok();
    bed.husk(&["kill", "other"]).ok();
    assert_eq!(bed.husk(&["wait", "other"]).ok().out(), "137");
    bed.husk(&["pause", "other"]).output().refused_with(125, &["pause other", "not running"]);
}

#[test]
fn restarted_container_keeps_its_files_and_runs_anew() {
    let bed = Bed::new();
    bed.start_sh("box", "echo run >> /runs; sync; exec sleep 1000");
    let runs = || bed.exec_sh("box", "wc -l < /runs").output().out();
    eventually("it has run", || (runs() == "1").then_some(()));
    assert_eq!(bed.husk(&["restart", "-t", "0", "box"]).ok().out(), "box");
    eventually("it has run twice", || (runs() == "2").then_some(()));
    bed.husk(&["stop", "-t", "0", "box"]).ok();
    bed.husk(&["restart", "box"]).ok();
    assert_eq!(bed.state("box").as_deref(), Some("running"));
    bed.husk(&["restart", "ghost"]).output().refused_with(125, &["no such container: ghost"]);
}

#[test]
fn renamed_container_is_found_by_its_new_name_alone() {
    let bed = Bed::new();
    bed.start_sh("old", "sleep 1000");
    bed.husk(&["create", "--name", "taken", BUSYBOX]).ok();
    assert_eq!(bed.husk(&["rename", "old", "new"]).ok().out(), "");
    assert_eq!(bed.inspect("new")["Name"], "/new");
    bed.husk(&["inspect", "old"]).output().code(125);
    assert_eq!(bed.exec_sh("new", "echo here").ok().out(), "here");
    bed.husk(&["rename", "new", "taken"]).output().refused_with(125, &["rename new", "in use"]);
    bed.husk(&["rename", "new", "a b"]).output().refused_with(125, &["rename new", "a b"]);
    bed.husk(&["rename", "new", "new"]).output().refused_with(125, &["rename new", "same name"]);
    bed.husk(&["stop", "-t", "0", "new"]).ok();
    bed.husk(&["start", "new"]).ok();
}

#[test]
fn limits_change_at_once_and_stay_changed() {
    let bed = Bed::new();
    let words = ["run", "-d", "--name", "box", "-m", "128m", "--cpus", "1", BUSYBOX];
    bed.husk(&[&words[..], &["sleep", "1000"]].concat()).ok();
    let read = |file: &str| bed.exec_sh("box", &format!("cat /sys/fs/cgroup/{file}")).ok().out();
    let words = ["update", "-m", "64m", "--cpus", "0.5", "--pids-limit", "40", "box"];
    assert_eq!(bed.husk(&words).ok().out(), "box");
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!((read("cpu.max"), read("pids.max")), ("50000 100000".into(), "40".into()));
    let host = bed.inspect("box")["HostConfig"].clone();
    assert_eq!((&host["Memory"], &host["PidsLimit"]), (&json!(64 << 20), &json!(40)));
    // Back to what its machine was made with, and not beyond.
    bed.husk(&["update", "-m", "128m", "box"]).ok();
    assert_eq!(read("memory.max"), (128 << 20).to_string());
    let output = bed.husk(&["update", "-m", "1g", "box"]).output();
    output.refused_with(125, &["update box", "cannot grow while it runs"]);
    bed.husk(&["update", "box"]).output().refused_with(125, &["one or more flags"]);
    bed.husk(&["update", "-m", "1m", "box"]).output().refused_with(125, &["at least 6m"]);
    bed.husk(&["stop", "-t", "0", "box"]).ok();
    bed.husk(&["update", "-m", "256m", "box"]).ok();
    bed.husk(&["start", "box"]).ok();
    assert_eq!(read("memory.max"), (256 << 20).to_string());
    assert_eq!(read("pids.max"), "40");
}

#[test]
fn processes_of_a_container_are_listed() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000 & sleep 1000 & wait");
    let list = || bed.husk(&["top", "box"]).ok().out();
    let two = || (list().matches("sleep").count() == 2).then_some(());
    eventually("its two children sleep", two);
    let output = list();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["PID", "CMD"]);
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["1", "sh"], "{output}");
    bed.husk(&["create", "--name", "idle", BUSYBOX]).ok();
    bed.husk(&["top", "idle"]).output().refused_with(125, &["top idle", "not running"]);
}

#[test]
fn use_of_machines_is_shown_in_dockers_columns() {
    let bed = Bed::new();
    bed.husk(&[
        "run",
        "-d",
        "--name",
        "busy",
        "-m",
        "64m",
        BUSYBOX,
        "sh",
        "-c",
        "while :; do :; done",
    ])
    .ok();
    let words = ["stats", "--no-stream", "--format", "json", "busy"];
    // Its machine may have to wait for a processor.
    let row = eventually("its use of processors is seen", || {
        let row: Value = serde_json::from_str(&bed.husk(&words).ok().out()).unwrap();
        let share: f64 = row["CPUPerc"].as_str().unwrap().trim_end_matches('%').parse().unwrap();
        (share > 5.0).then_some(row)
    });
    assert_eq!(row["Name"], "busy");
    assert!(row["MemUsage"].as_str().unwrap().ends_with(" / 64MiB"), "{row}");
    assert_eq!(row["PIDs"], "1");
    let table = bed.husk(&["stats", "--no-stream"]).ok().out();
    assert!(table.starts_with("CONTAINER ID   NAME   CPU %"), "{table}");
    assert_eq!(table.lines().count(), 2, "{table}");
    bed.husk(&["stats", "--no-stream", "ghost"]).output().refused_with(125, &["ghost"]);
}
