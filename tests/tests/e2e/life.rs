//! A container's life: create, start, stop, kill, wait, rm, and what `ps` and `logs` say of it.

use std::time::{Duration, Instant};

use husk_tests::wait::eventually;
use husk_tests::{BUSYBOX, Bed};
use nix::sys::signal::Signal;

/// Waits until the container has written `text`.
pub fn await_log(bed: &Bed, name: &str, text: &str) {
    let there = || {
        let output = bed.husk(&["logs", name]).ok();
        (output.out().contains(text) || output.err().contains(text)).then_some(())
    };
    eventually(&format!("{name} wrote {text}"), there);
}

#[test]
fn writable_layer_lives_from_stop_to_start_and_ends_with_the_container() {
    let bed = Bed::new();
    let script = "cat /kept 2>/dev/null; date +%s%N >> /kept; sync; echo run; exec sleep 1000";
    let words = ["create", "--name", "box", BUSYBOX, "sh", "-c", script];
    let id = bed.husk(&words).ok().out();
    assert_eq!(id.len(), 64);
    assert_eq!(bed.state("box").as_deref(), Some("created"));
    assert_eq!(bed.husk(&["start", "box"]).ok().out(), "box");
    await_log(&bed, "box", "run");
    let first = bed.exec_sh("box", "cat /kept").ok().out();
    assert_eq!(bed.husk(&["stop", "-t", "0", "box"]).ok().out(), "box");
    assert_eq!(bed.state("box").as_deref(), Some("exited"));
    bed.assert_idle();
    bed.husk(&["start", &id[..12]]).ok();
    await_log(&bed, "box", &first);
    assert_eq!(bed.exec_sh("box", "wc -l < /kept").ok().out(), "2");
    // A start of what runs is no error, and starts nothing.
    bed.husk(&["start", "box"]).ok();
    assert_eq!(bed.exec_sh("box", "wc -l < /kept").ok().out(), "2");
    bed.husk(&["rm", "-f", "box"]).ok();
    assert_eq!(bed.state("box"), None);
    bed.assert_nothing_left();
}

#[test]
fn what_was_written_is_there_after_a_process_that_just_ended() {
    let bed = Bed::new();
    let words = ["run", "--name", "box", BUSYBOX, "sh", "-c"];
    let script = "if [ -e /f ]; then sha256sum < /f; else seq 1 100000 > /f; sha256sum < /f; fi";
    let first = bed.husk(&[&words[..], &[script]].concat()).ok().out();
    assert_eq!(bed.husk(&["start", "-a", "box"]).ok().out(), first);
}

#[test]
fn stop_asks_first_and_kills_who_does_not_listen() {
    let bed = Bed::new();
    bed.start_sh(
        "polite",
        "trap 'echo asked; exit 4' TERM; echo ready; while :; do sleep 0.1; done",
    );
    await_log(&bed, "polite", "ready");
    bed.husk(&["stop", "polite"]).ok();
    assert_eq!(bed.inspect("polite")["State"]["ExitCode"], 4);
    assert!(bed.husk(&["logs", "polite"]).ok().out().contains("asked"));

    bed.start_sh("deaf", "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    await_log(&bed, "deaf", "ready");
    let began = Instant::now();
    bed.husk(&["stop", "-t", "1", "deaf"]).ok();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(bed.inspect("deaf")["State"]["ExitCode"], 137);
    // Stopping what is stopped is no error.
    bed.husk(&["stop", "deaf"]).ok();
    bed.husk(&["rm", "polite", "deaf"]).ok();
    bed.assert_nothing_left();
}

#[test]
fn kill_sends_the_signal_that_was_asked_for() {
    let bed = Bed::new();
    bed.start_sh("box", "trap 'echo one' USR1; trap 'echo two; exit 6' USR2; echo ready; while :; do sleep 0.1; done");
    await_log(&bed, "box", "ready");
    assert_eq!(bed.husk(&["kill", "-s", "SIGUSR1", "box"]).ok().out(), "box");
    await_log(&bed, "box", "one");
    assert_eq!(bed.state("box").as_deref(), Some("running"));
    bed.husk(&["kill", "-s", "12", "box"]).ok();
    assert_eq!(bed.husk(&["wait", "box"]).ok().out(), "6");
    bed.husk(&["kill", "box"]).output().refused_with(125, &["kill box", "not running"]);
}

#[test]
fn wait_is_answered_when_the_container_ends_and_at_once_when_it_has() {
    let bed = Bed::new();
    bed.start_sh("one", "while [ ! -e /go ]; do sleep 0.1; done; exit 3");
    let waiting = bed.husk(&["wait", "one"]).spawn();
    bed.exec_sh("one", "touch /go").ok();
    assert_eq!(waiting.wait().code(0).out(), "3");
    assert_eq!(bed.husk(&["wait", "one", "one"]).ok().out(), "3\n3");
}

#[test]
fn ps_tells_every_state_with_dockers_words() {
    let bed = Bed::new();
    bed.husk(&["create", "--name", "made", BUSYBOX, "true"]).ok();
    bed.sh(&["--name", "gone"], "exit 1").output().code(1);
    bed.husk(&["run", "--name", "ended", BUSYBOX, "sh", "-c", "exit 3"]).output().code(3);
    bed.start_sh("up", "sleep 1000");
    let ps = |words: &[&str]| bed.husk(&[&["ps"], words].concat()).ok().out();
    assert_eq!(ps(&["--format", "{{.Names}}"]), "up");
    let all = ps(&["-a", "--format", "{{.Names}} {{.State}} {{.Status}}"]);
    let lines: Vec<&str> = all.lines().collect();
    let [up, ended, made] = lines[..] else { panic!("{all}") };
    assert!(up.starts_with("up running Up ") && made == "made created Created", "{all}");
    assert!(ended.starts_with("ended exited Exited (3) ") && ended.ends_with(" ago"), "{all}");
    for (filter, names) in [
        ("name=e", "ended\nmade"),
        ("status=created", "made"),
        ("status=exited", "ended"),
        ("exited=3", "ended"),
        ("exited=0", ""),
    ] {
        assert_eq!(ps(&["-a", "-f", filter, "--format", "{{.Names}}"]), names, "{filter}");
    }
    assert_eq!(ps(&["-a", "-f", "ancestor=busybox:latest", "-q"]).lines().count(), 3);
    let id = bed.inspect("up")["Id"].as_str().unwrap().to_owned();
    assert_eq!(ps(&["-q"]), &id[..12]);
    assert_eq!(ps(&["-q", "--no-trunc"]), id);
    assert_eq!(ps(&["-n", "1", "--format", "{{.Names}}"]), "up");
    let table = ps(&[]);
    assert!(table.starts_with("CONTAINER ID   IMAGE"), "{table}");
    assert!(
        table.contains("busybox:latest") && table.contains("\"sh -c 'sleep 1000'\"")
            || table.contains("\"sh -c sleep 1000\""),
        "{table}"
    );
    let json: serde_json::Value = serde_json::from_str(&ps(&["--format", "json"])).unwrap();
    assert_eq!((json["Names"].as_str(), json["State"].as_str()), (Some("up"), Some("running")));
}

#[test]
fn rm_refuses_what_runs_unless_forced() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    bed.husk(&["rm", "box"]).output().refused_with(125, &["rm box", "running"]);
    assert_eq!(bed.state("box").as_deref(), Some("running"));
    assert_eq!(bed.husk(&["rm", "-f", "box"]).ok().out(), "box");
    bed.assert_nothing_left();
    bed.husk(&["rm", "-f", "box"]).ok();
    bed.husk(&["rm", "box"]).output().refused_with(125, &["no such container: box"]);
}

#[test]
fn logs_hold_both_streams_apart_and_in_order() {
    let bed = Bed::new();
    // What two streams say at once has no order.
    let script = "for i in $(seq 1 50); do echo out $i; done; until [ -e /err ]; do sleep 0.1; done; \
                  echo err 1 >&2; until [ -e /end ]; do sleep 0.1; done; printf 'no end'";
    bed.start_sh("box", script);
    for (text, next) in [("out 50", "touch /err"), ("err 1", "touch /end")] {
        await_log(&bed, "box", text);
        bed.exec_sh("box", next).ok();
    }
    bed.husk(&["wait", "box"]).ok();
    let output = bed.husk(&["logs", "box"]).ok();
    let wanted: String = (1..=50).map(|n| format!("out {n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted + "no end");
    assert_eq!(output.err(), "err 1");
    let tail = bed.husk(&["logs", "--tail", "2", "box"]).ok();
    assert_eq!(tail.stdout.len() + tail.stderr.len(), "err 1\nno end".len());
    let stamped = bed.husk(&["logs", "-t", "--tail", "1", "box"]).ok().out();
    let (stamp, text) = stamped.split_once(' ').unwrap();
    assert_eq!(text, "no end");
    assert!(stamp.starts_with("20") && stamp.ends_with('Z') && stamp.len() == 30, "{stamp}");
}

#[test]
fn followed_logs_go_on_until_the_container_ends() {
    let bed = Bed::new();
    let script = "echo before; while [ ! -e /go ]; do sleep 0.1; done; echo after; echo late >&2";
    bed.start_sh("box", script);
    let mut follow = bed.husk(&["logs", "-f", "box"]).spawn();
    follow.expect("before");
    assert!(!follow.stdout_so_far().contains("after"));
    bed.exec_sh("box", "touch /go").ok();
    let output = follow.wait().code(0);
    assert_eq!((output.out().as_str(), output.err().as_str()), ("before\nafter", "late"));
}

#[test]
fn start_joins_the_streams_when_asked_to() {
    let bed = Bed::new();
    bed.husk(&["create", "-i", "--name", "box", BUSYBOX, "sh", "-c", "cat; echo err >&2; exit 5"])
        .ok();
    for text in ["one", "two"] {
        let output = bed.husk(&["start", "-a", "-i", "box"]).stdin(text).output().code(5);
        assert_eq!((output.out().as_str(), output.err().as_str()), (text, "err"));
    }
    assert_eq!(bed.husk(&["logs", "box"]).ok().out(), "onetwo");
}

#[test]
fn clients_are_not_what_keeps_a_container_alive() {
    let bed = Bed::new();
    let words = ["run", "--name", "box", BUSYBOX, "sh", "-c"];
    let script = "echo ready; while [ ! -e /go ]; do sleep 0.1; done; echo still here; exit 8";
    let mut run = bed.husk(&[&words[..], &[script]].concat()).spawn();
    run.expect("ready");
    run.signal(Signal::SIGKILL);
    assert_eq!(run.wait().code, 137);
    assert_eq!(bed.state("box").as_deref(), Some("running"));
    bed.exec_sh("box", "touch /go").ok();
    assert_eq!(bed.husk(&["wait", "box"]).ok().out(), "8");
    assert!(bed.husk(&["logs", "box"]).ok().out().ends_with("still here"));
}

#[test]
fn two_starts_at_once_start_it_once() {
    let bed = Bed::new();
    bed.husk(&["create", "--name", "box", BUSYBOX, "sh", "-c", "echo x; exec sleep 1000"]).ok();
    let starts: Vec<_> = (0..4).map(|_| bed.husk(&["start", "box"]).spawn()).collect();
    for start in starts {
        let output = start.wait();
        if output.code != 0 {
            output.refused_with(125, &["start box"]);
        }
    }
    bed.await_state("box", "running");
    await_log(&bed, "box", "x");
    assert_eq!(bed.husk(&["logs", "box"]).ok().out(), "x");
    // That of a start which came too late ends by itself.
    let monitors =
        || bed.processes().iter().filter(|process| process.command.contains("monitor")).count();
    eventually("it has one monitor", || (monitors() == 1).then_some(()));
}
