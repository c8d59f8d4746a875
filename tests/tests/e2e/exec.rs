//! `husk exec`: further processes in a running container.

use husk_tests::wait::eventually;
use husk_tests::{BUSYBOX, Bed};

#[test]
fn exec_runs_beside_the_first_process_and_brings_its_own_exit_code() {
    let bed = Bed::new();
    let words = ["run", "-d", "--name", "box", "-e", "OWN=1", "-w", "/etc", "-u", "user", BUSYBOX];
    bed.husk(&[&words[..], &["sleep", "1000"]].concat()).ok();
    let exec = |words: &[&str]| bed.husk(&[&["exec"], words].concat());

    let output = exec(&["box", "sh", "-c", "echo out; echo err >&2; exit 9"]).output().code(9);
    assert_eq!((output.out().as_str(), output.err().as_str()), ("out", "err"));
    exec(&["box", "sh", "-c", "kill -TERM $$"]).output().code(143);

    // It starts from what the container has.
    let script = "echo $(id -un) $PWD $OWN $NEW";
    assert_eq!(exec(&["box", "sh", "-c", script]).ok().out(), "user /etc 1");
    let flags = ["-u", "daemon", "-w", "/tmp", "-e", "NEW=2", "-e", "OWN=3"];
    let output = exec(&[&flags[..], &["box", "sh", "-c", script]].concat()).ok();
    assert_eq!(output.out(), "daemon /tmp 3 2");

    // Its stdin is the client's with -i, and empty without.
    assert_eq!(exec(&["-i", "box", "cat"]).stdin("through").ok().out(), "through");
    assert_eq!(exec(&["box", "cat"]).stdin("lost").ok().out(), "");

    exec(&["box", "nope"]).output().refused_with(127, &["exec box", "executable file not found"]);
    exec(&["box", "/etc/passwd"]).output().refused_with(126, &["permission denied"]);
    exec(&["-u", "stranger", "box", "id"]).output().refused_with(125, &["stranger"]);
    exec(&["-w", "relative", "box", "id"]).output().refused_with(125, &["relative"]);
    exec(&["box"]).output().refused_with(125, &["no command"]);
    exec(&["nobody-here", "id"]).output().refused_with(125, &["no such container: nobody-here"]);
    assert_eq!(bed.state("box").as_deref(), Some("running"));
}

#[test]
fn exec_sees_the_containers_processes_and_files() {
    let bed = Bed::new();
    bed.start_sh("box", "echo mine > /mine; sleep 1000; true");
    let seen = || (bed.exec_sh("box", "cat /mine").output().out() == "mine").then_some(());
    eventually("the first process has written", seen);
    assert_eq!(
        bed.exec_sh("box", "cat /proc/1/cmdline | tr '\\0' ' '").ok().out().trim(),
        "sh -c echo mine > /mine; sleep 1000; true"
    );
    for namespace in ["pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let script = format!(
            "[ $(readlink /proc/1/ns/{namespace}) = $(readlink /proc/self/ns/{namespace}) ]"
        );
        assert_eq!(bed.exec_sh("box", &script).output().code, 0, "{namespace}");
    }
    assert_eq!(bed.exec_sh("box", "cat /proc/self/cgroup").ok().out(), "0::/");
}

#[test]
fn detached_exec_goes_on_alone() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let output = bed.husk(&["exec", "-d", "box", "sh", "-c", "sleep 0.5; echo done > /done"]).ok();
    assert_eq!(output.out(), "");
    let there = || (bed.exec_sh("box", "cat /done").output().out() == "done").then_some(());
    eventually("it has done its work", there);
    bed.husk(&["exec", "-d", "box", "nope"]).output().refused(127);
}

#[test]
fn exec_in_a_container_that_does_not_run_is_refused() {
    let bed = Bed::new();
    bed.husk(&["create", "--name", "box", BUSYBOX, "true"]).ok();
    bed.husk(&["exec", "box", "true"]).output().refused_with(125, &["exec box", "not running"]);
    bed.husk(&["start", "-a", "box"]).ok();
    bed.husk(&["exec", "box", "true"]).output().refused_with(125, &["exec box", "not running"]);
}

#[test]
fn twenty_at_once_keep_their_streams_and_exit_codes() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let running: Vec<_> = (0..20)
        .map(|number| {
            let script = format!("cat; echo {number}; exit {number}");
            bed.husk(&["exec", "-i", "box", "sh", "-c", &script])
                .stdin(format!("in {number}\n"))
                .spawn()
        })
        .collect();
    for (number, run) in (0..20).zip(running) {
        assert_eq!(run.wait().code(number).out(), format!("in {number}\n{number}"));
    }
}

#[test]
fn exec_ends_when_its_container_does() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let mut exec = bed.exec_sh("box", "echo ready; sleep 1000").spawn();
    exec.expect("ready");
    bed.husk(&["kill", "box"]).ok();
    assert_eq!(exec.wait().code, 137);
    assert_eq!(bed.husk(&["wait", "box"]).ok().out(), "137");
}
