//! SIGKILL at any moment, to any process of husk's: everything it started goes within a second or
//! so, `ps` says so, `rm` works, and nothing half made stays.

use std::thread::sleep;
use std::time::Duration;

use husk_tests::leftovers::Process;
use husk_tests::wait::eventually;
use husk_tests::{BUSYBOX, Bed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::life::await_log;

fn kill_pid(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

fn monitors(bed: &Bed) -> Vec<Process> {
    let is_monitor = |process: &Process| process.command.starts_with("husk-monitor");
    bed.processes().into_iter().filter(is_monitor).collect()
}

#[test]
fn killed_vmm_ends_the_container_with_an_error_that_says_so() {
    let bed = Bed::new();
    let words = ["run", "--name", "box", BUSYBOX, "sh", "-c", "echo ready; sleep 1000"];
    let mut run = bed.husk(&words).spawn();
    run.expect("ready");
    kill_pid(bed.vmms()[0].pid);
    let output = run.wait().code(125);
    let line = output.err();
    assert!(line.starts_with("husk: run box: ") && !line.contains('\n'), "{line}");
    assert!(line.contains("ended with signal: 9"), "{line}");
    bed.assert_idle();
    assert_eq!(bed.state("box").as_deref(), Some("exited"));
    let state = bed.inspect("box")["State"].clone();
    assert_eq!(state["ExitCode"], 125);
    assert!(state["Error"].as_str().unwrap().contains("signal: 9"), "{state}");
    // What was written before is a file system still.
    bed.husk(&["start", "box"]).ok();
    bed.husk(&["rm", "-f", "box"]).ok();
    bed.assert_nothing_left();
}

/// Whoever is attached learns of an orderly end: the monitor was not killed for it.
#[test]
fn container_whose_monitor_is_stopped_can_be_killed_stopped_and_removed() {
    let bed = Bed::new();
    for words in [&["kill", "box"][..], &["stop", "-t", "0", "box"], &["rm", "-f", "box"]] {
        let words_of_run = ["run", "--name", "box", BUSYBOX, "sh", "-c", "echo ready; sleep 1000"];
        let mut run = bed.husk(&words_of_run).spawn();
        run.expect("ready");
        kill(Pid::from_raw(monitors(&bed)[0].pid), Signal::SIGSTOP).unwrap();
        bed.husk(words).ok();
        assert_eq!(run.wait().code, 137, "{words:?}");
        bed.assert_idle();
        bed.husk(&["rm", "-f", "box"]).ok();
    }
    bed.assert_nothing_left();
}

#[test]
fn vmm_killed_while_it_boots_is_an_error_at_once() {
    let bed = Bed::new();
    for name in ["box", "again"] {
        // Neither a container that ends nor the deadline of its boot comes first.
        let words = ["run", "--rm", "--name", name, BUSYBOX, "sleep", "1000"];
        let run = bed.husk(&words).env("HUSK_GUEST_TIMEOUT", "600").spawn();
        let vmm = eventually("a VMM runs", || bed.vmms().pop());
        kill_pid(vmm.pid);
        let output = run.wait();
        output.refused_with(125, &["run", name, "ended with signal: 9"]);
        bed.assert_nothing_left();
    }
}

#[test]
fn killed_monitor_takes_its_vm_along_and_ps_knows() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let mut exec = bed.exec_sh("box", "echo ready; sleep 1000").spawn();
    exec.expect("ready");
    let waiting = bed.husk(&["wait", "box"]).spawn();
    // So that it waits; one that comes later is told the same.
    sleep(Duration::from_millis(200));
    kill_pid(monitors(&bed)[0].pid);
    let gone = || (bed.vmms().is_empty() && monitors(&bed).is_empty()).then_some(());
    eventually("monitor and VMM are gone", gone);
    let exec = exec.wait().code(125).err();
    assert!(exec.starts_with("husk: exec box: ") && exec.contains("killed"), "{exec}");
    assert_eq!(waiting.wait().code(0).out(), "255");
    let ps = bed.husk(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).ok().out();
    assert!(ps.starts_with("box Exited (255) "), "{ps}");
    bed.assert_idle();
    bed.husk(&["start", "box"]).ok();
    assert_eq!(bed.state("box").as_deref(), Some("running"));
    // As soon as it can be: a VM that still dies has the disk until it is gone.
    kill_pid(monitors(&bed)[0].pid);
    bed.await_state("box", "exited");
    bed.husk(&["start", "box"]).ok();
    assert_eq!(bed.vmms().len(), 1);
    kill_pid(monitors(&bed)[0].pid);
    bed.husk(&["rm", "-f", "box"]).ok();
    bed.assert_nothing_left();
}

#[test]
fn killed_monitor_of_a_container_that_was_to_go_takes_it_along() {
    let bed = Bed::new();
    let mut run = bed.sh(&["--name", "box"], "echo ready; sleep 1000").spawn();
    run.expect("ready");
    kill_pid(monitors(&bed)[0].pid);
    let output = run.wait().code(125);
    assert!(output.err().starts_with("husk: run box: "), "{}", output.err());
    bed.assert_nothing_left();
}

#[test]
fn monitor_killed_while_it_boots_leaves_a_container_that_starts() {
    let bed = Bed::new();
    bed.husk(&["create", "--name", "box", BUSYBOX, "echo", "alive"]).ok();
    for wait_ms in [0, 30, 200, 500] {
        let start = bed.husk(&["start", "-a", "box"]).spawn();
        let monitor = eventually("the monitor runs", || monitors(&bed).pop());
        sleep(Duration::from_millis(wait_ms));
        // It may have done its work by now.
        let _ = kill(Pid::from_raw(monitor.pid), Signal::SIGKILL);
        let code = start.wait().code;
        assert!([0, 125].contains(&code), "{code}");
        bed.assert_idle();
        assert_ne!(bed.state("box").as_deref(), Some("starting"));
    }
    assert_eq!(bed.husk(&["start", "-a", "box"]).ok().out(), "alive");
}

#[test]
fn client_killed_at_any_moment_leaves_a_container_or_none() {
    let bed = Bed::new();
    for wait_ms in [0, 2, 5, 10, 20, 40, 80, 300, 900] {
        let run = bed.husk(&["run", "--name", "box", BUSYBOX, "sleep", "1000"]).spawn();
        sleep(Duration::from_millis(wait_ms));
        run.signal(Signal::SIGKILL);
        assert_eq!(run.wait().code, 137);
        match bed.state("box") {
            None => {}
            Some(state) => {
                let states = ["created", "starting", "running", "exited"];
                assert!(states.contains(&state.as_str()), "{state}");
            }
        }
        bed.husk(&["rm", "-f", "box"]).ok();
        // The next command clears what a killed one had half made.
        bed.run(&[], &["true"]).ok();
        bed.assert_nothing_left();
    }
}

#[test]
fn container_lives_on_without_its_client_even_when_it_is_starting() {
    let bed = Bed::new();
    let run = bed.husk(&["run", "--name", "box", BUSYBOX, "sleep", "1000"]).spawn();
    eventually("a VMM runs", || bed.vmms().pop());
    run.signal(Signal::SIGKILL);
    assert_eq!(run.wait().code, 137);
    bed.await_state("box", "running");
    assert_eq!(bed.exec_sh("box", "echo here").ok().out(), "here");
}

#[test]
fn signal_while_it_boots_ends_the_run_and_the_vm() {
    let bed = Bed::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let run = bed.run(&[], &["sleep", "1000"]).spawn();
        eventually("a VMM runs", || bed.vmms().pop());
        run.signal(signal);
        let output = run.wait();
        assert_eq!(output.code, 128 + signal as i32, "{}", output.err());
        bed.assert_nothing_left();
    }
}

#[test]
fn monitor_that_is_asked_to_end_takes_everything_down_in_order() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    kill(Pid::from_raw(monitors(&bed)[0].pid), Signal::SIGTERM).unwrap();
    bed.await_state("box", "exited");
    bed.assert_idle();
    assert_eq!(bed.inspect("box")["State"]["ExitCode"], 137);
}

#[test]
fn removal_that_is_killed_leaves_a_container_or_none() {
    let bed = Bed::new();
    for wait_ms in [0, 1, 2, 4, 8] {
        bed.husk(&["create", "--name", "box", BUSYBOX]).ok();
        let rm = bed.husk(&["rm", "box"]).spawn();
        sleep(Duration::from_millis(wait_ms));
        rm.signal(Signal::SIGKILL);
        assert!([0, 137].contains(&rm.wait().code));
        let left = bed.containers();
        assert!(left.is_empty() || left == ["box"], "{left:?}");
        bed.husk(&["rm", "-f", "box"]).ok();
        bed.assert_nothing_left();
    }
}

#[test]
fn commands_at_work_are_told_that_the_container_went() {
    let bed = Bed::new();
    bed.start_sh("box", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done");
    await_log(&bed, "box", "ready");
    let stop = bed.husk(&["stop", "-t", "600", "box"]).spawn();
    await_log(&bed, "box", "asked");
    kill_pid(monitors(&bed)[0].pid);
    // It is down, which is what was asked for.
    assert_eq!(stop.wait().code(0).out(), "box");
    // Its VMM, which dies with the monitor, may hold its disk for a moment longer.
    bed.assert_idle();
    bed.husk(&["start", "box"]).ok();
    let mut exec = bed.exec_sh("box", "echo ready; sleep 1000").spawn();
    exec.expect("ready");
    kill_pid(bed.vmms()[0].pid);
    let exec = exec.wait().code(125).err();
    assert!(exec.starts_with("husk: exec box: "), "{exec}");
    assert!(exec.contains("the container has ended") && !exec.contains('\n'), "{exec}");
    bed.husk(&["rm", "-f", "box"]).ok();
    bed.assert_nothing_left();
}
