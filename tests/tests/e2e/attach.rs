//! `husk attach`: clients that come, go and come back.

use husk_tests::{BUSYBOX, Bed};

#[test]
fn attached_client_sees_what_is_written_from_then_on_and_the_exit_code() {
    let bed = Bed::new();
    let script = "echo early; while [ ! -e /go ]; do sleep 0.1; [ -e /tick ] && echo tick; done; \
                  echo late; exit 4";
    bed.start_sh("box", script);
    crate::life::await_log(&bed, "box", "early");
    bed.exec_sh("box", "touch /tick").ok();
    let mut client = bed.husk(&["attach", "box"]).spawn();
    client.expect("tick\n");
    bed.exec_sh("box", "touch /go").ok();
    let output = client.wait().code(4).out();
    let ticks = output.strip_suffix("late").expect("it sees the end");
    assert!(ticks.lines().all(|line| line == "tick"), "{output}");
    bed.husk(&["attach", "box"]).output().refused_with(125, &["attach box", "not running"]);
    bed.husk(&["attach", "nope"]).output().refused_with(125, &["no such container: nope"]);
}

#[test]
fn input_goes_to_the_process_and_output_to_every_client() {
    let bed = Bed::new();
    let script = "while :; do echo tick; sleep 0.1; done & exec cat";
    bed.husk(&["run", "-d", "-i", "--name", "box", BUSYBOX, "sh", "-c", script]).ok();
    let mut watcher = bed.husk(&["attach", "--no-stdin", "box"]).spawn();
    watcher.expect("tick");
    let mut writer =
        bed.husk(&["attach", "--sig-proxy=false", "box"]).stdin("typed\n").keep_stdin().spawn();
    writer.expect("typed");
    watcher.expect("typed");
    assert_eq!(bed.state("box").as_deref(), Some("running"));
    // The writer goes; the process and its input stay, for it was started detached.
    writer.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(writer.wait().code, 143);
    let mut writer = bed.husk(&["attach", "box"]).stdin("again\n").keep_stdin().spawn();
    writer.expect("again");
    watcher.expect("again");
    bed.husk(&["kill", "box"]).ok();
    assert_eq!(writer.wait().code, 137);
    assert_eq!(watcher.wait().code, 137);
}
