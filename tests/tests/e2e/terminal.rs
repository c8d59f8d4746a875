//! `-t`: a terminal here, a terminal there.

use husk_tests::{BUSYBOX, Bed};
use nix::sys::signal::Signal;

#[test]
fn shell_on_a_terminal_talks_and_the_terminal_is_restored() {
    let bed = Bed::new();
    let mut term = bed.on_terminal(&["run", "-it", "--rm", "--name", "box", BUSYBOX, "sh"]);
    term.expect("/ #");
    assert!(term.is_raw());
    term.keys("tty; echo $((40+2)) $TERM; stty size\r");
    term.expect("/dev/pts/0");
    term.expect("42 xterm");
    term.expect("24 80");
    // Keys are signals on the far side.
    term.keys("sleep 1000\r");
    let sleeps = || (bed.husk(&["exec", "box", "pidof", "sleep"]).output().code == 0).then_some(());
    husk_tests::wait::eventually("sleep runs", sleeps);
    term.keys("\u{3}");
    term.keys("echo st''ill\r");
    term.expect("still");
    term.keys("exit 11\r");
    assert_eq!(term.wait(), 11);
    bed.assert_nothing_left();
}

#[test]
fn window_size_follows() {
    let bed = Bed::new();
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done";
    let term = bed.on_terminal(&["run", "-it", "--name", "box", BUSYBOX, "sh", "-c", script]);
    term.expect("ready");
    term.resize(50, 132);
    term.expect("50 132");
    let size = bed.husk(&["exec", "box", "sh", "-c", "stty -F /dev/pts/0 size"]).ok();
    assert_eq!(size.out(), "50 132");
}

#[test]
fn detach_keys_leave_it_running_and_attach_comes_back() {
    let bed = Bed::new();
    let mut term = bed.on_terminal(&["run", "-it", "--name", "box", BUSYBOX, "sh"]);
    term.expect("/ #");
    term.keys("X=kept\r");
    term.keys("\u{10}\u{11}");
    assert_eq!(term.wait(), 0);
    assert_eq!(bed.state("box").as_deref(), Some("running"));
    let mut term = bed.on_terminal(&["attach", "--detach-keys", "ctrl-x,x", "box"]);
    term.keys("echo $X''$X\r");
    term.expect("keptkept");
    term.keys("\u{18}x");
    assert_eq!(term.wait(), 0);
    let mut term = bed.on_terminal(&["attach", "box"]);
    term.keys("exit 5\r");
    assert_eq!(term.wait(), 5);
    assert_eq!(bed.inspect("box")["State"]["ExitCode"], 5);
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let mut term = bed.on_terminal(&["exec", "-it", "box", "sh"]);
    term.expect("/ #");
    term.keys("test -t 0 && test -t 1 && test -t 2 && echo all''three $(stty size)\r");
    term.expect("allthree 24 80");
    term.keys("exit 6\r");
    assert_eq!(term.wait(), 6);
    assert_eq!(bed.state("box").as_deref(), Some("running"));
}

#[test]
fn terminal_is_restored_when_husk_is_told_to_go_or_its_container_is_killed() {
    let bed = Bed::new();
    let mut term = bed.on_terminal(&["run", "-it", "--name", "box", BUSYBOX, "sh"]);
    term.expect("/ #");
    bed.husk(&["kill", "box"]).ok();
    assert_eq!(term.wait(), 137);
    bed.husk(&["start", "box"]).ok();
    let mut term = bed.on_terminal(&["attach", "box"]);
    term.keys("echo he''re\r");
    term.expect("here");
    term.signal(Signal::SIGTERM);
    assert_eq!(term.wait(), 143);
    assert_eq!(bed.state("box").as_deref(), Some("running"));
    let mut term = bed.on_terminal(&["attach", "box"]);
    term.keys("echo th''ere\r");
    term.expect("there");
    let monitor = bed.inspect("box")["Husk"]["MonitorPid"].as_i64().unwrap();
    let monitor = nix::unistd::Pid::from_raw(i32::try_from(monitor).unwrap());
    nix::sys::signal::kill(monitor, Signal::SIGKILL).unwrap();
    assert_eq!(term.wait(), 125);
}

#[test]
fn terminal_without_one_here_is_refused() {
    let bed = Bed::new();
    bed.run(&["-it"], &["sh"]).output().refused_with(125, &["the input device is not a TTY"]);
    bed.assert_nothing_left();
    // Without -i there is nothing to read from: a terminal there is fine.
    let output = bed.run(&["-t"], &["sh", "-c", "test -t 1 && echo yes"]).ok();
    assert_eq!(output.stdout, b"yes\r\n");
}
