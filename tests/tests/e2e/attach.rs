//! `husk attach`: clients that come, go and come back.

use husk_tests::{BUSYBOX, Bed};

#[test]
fn attached_client_sees_what_is_written_from_then_on_and_the_exit_code() {
    let bed = Bed::new();
    bed.start_sh("box", "echo early; while [ ! -e /go ]; do sleep 0.1; done; echo late; exit 4");
    let early = || bed.husk(&["logs", "box"]).ok().out().contains("early").then_some(());
    husk_tests::wait::eventually(std::time::Duration::from_secs(20), "it has begun", early);
    let mut client = bed.husk(&["attach", "box"]).spawn();
    // Attached once the monitor has two clients' worth of sockets; ask something to be sure.
    std::thread::sleep(std::time::Duration::from_millis(500));
    bed.exec_sh("box", "touch /go").ok();
    client.expect("late");
    let output = client.wait().code(4);
    assert_eq!(output.out(), "late");
    bed.husk(&["attach", "box"]).output().refused_with(125, &["attach box", "not running"]);
    bed.husk(&["attach", "nope"]).output().refused_with(125, &["no such container: nope"]);
}

#[test]
fn input_goes_to_the_process_and_output_to_every_client() {
    let bed = Bed::new();
    bed.husk(&["run", "-d", "-i", "--name", "box", BUSYBOX, "cat"]).ok();
    let mut watcher = bed.husk(&["attach", "--no-stdin", "box"]).spawn();
    std::thread::sleep(std::time::Duration::from_millis(500));
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
