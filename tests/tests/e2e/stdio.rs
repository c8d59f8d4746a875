//! Standard streams: apart, whole, in order, and ending when they should.

use std::time::Duration;

use husk_tests::image::{digest, hex};
use husk_tests::{BUSYBOX, Bed};
use nix::sys::signal::Signal;

#[test]
fn input_reaches_the_process_and_ends_with_the_clients() {
    let bed = Bed::new();
    assert_eq!(bed.run(&["-i"], &["cat"]).stdin("hi\n").ok().stdout, b"hi\n");
    let count = bed.run(&["-i"], &["wc", "-c"]).stdin(vec![0; 100_000]).ok();
    assert_eq!(count.out(), "100000");
}

#[test]
fn without_interactive_the_input_is_empty() {
    let bed = Bed::new();
    let output = bed.sh(&[], "cat; echo end").stdin("not for you\n").ok();
    assert_eq!(output.stdout, b"end\n");
}

#[test]
fn streams_stay_apart_byte_for_byte() {
    let bed = Bed::new();
    // Every byte there is, newline or not at the end, on both streams.
    let all: Vec<u8> = (0..=255).collect();
    let output = bed.sh(&["-i"], "tee /dev/stderr").stdin(all.clone()).ok();
    assert_eq!(output.stdout, all);
    assert_eq!(output.stderr, all);
}

#[test]
fn sixty_four_mebibytes_come_back_as_they_went() {
    let bed = Bed::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(64 << 20);
    while bytes.len() < 64 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    let wanted = digest(&bytes);
    let output = bed.run(&["-i"], &["cat"]).stdin(bytes).deadline(Duration::from_secs(180)).ok();
    assert_eq!(output.stdout.len(), 64 << 20);
    assert_eq!(digest(&output.stdout), wanted);
}

#[test]
fn output_is_whole_when_the_process_ends_right_after_it() {
    let bed = Bed::new();
    let script = "dd if=/dev/zero bs=1M count=3 2>/dev/null; printf last";
    let output = bed.sh(&[], script).ok();
    assert_eq!(output.stdout.len(), (3 << 20) + 4);
    assert!(output.stdout.ends_with(b"last"));
}

#[test]
fn reader_that_goes_away_does_not_hang_the_run() {
    let bed = Bed::new();
    let script = format!("'{}' run --rm {BUSYBOX} yes | head -n 2", bed.bin().display());
    assert_eq!(bed.program("sh", &["-c", &script]).ok().out(), "y\ny");
    let gone = || bed.containers().is_empty().then_some(());
    husk_tests::wait::eventually(Duration::from_secs(20), "yes has ended", gone);
    bed.assert_nothing_left();
}

#[test]
fn output_that_nobody_reads_stops_the_process_and_nothing_else() {
    let bed = Bed::new();
    // The shell of the test reads after a while: all of it must be there, in order.
    let script =
        format!("'{}' run --rm {BUSYBOX} seq 1 200000 | (sleep 3; sha256sum)", bed.bin().display());
    let output = bed.program("sh", &["-c", &script]).ok();
    let wanted: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    let wanted = digest(wanted.as_bytes());
    assert_eq!(output.out().split(' ').next(), wanted.strip_prefix("sha256:"));
    assert_eq!(hex(&[0xab]), "ab");
}

#[test]
fn signals_are_passed_on_to_the_process() {
    let bed = Bed::new();
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGHUP, "HUP"),
    ] {
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.1; done"
        );
        let mut run = bed.sh(&[], &script).spawn();
        run.expect("ready");
        run.signal(signal);
        let output = run.wait().code(9);
        assert_eq!(output.out(), format!("ready\ngot {name}"));
    }
    bed.assert_nothing_left();
}

#[test]
fn signals_stay_here_when_they_are_not_to_be_passed_on() {
    let bed = Bed::new();
    let flags = ["run", "--sig-proxy=false", "--name", "deaf", BUSYBOX, "sh", "-c"];
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut run = bed.husk(&[&flags[..], &[script]].concat()).spawn();
    run.expect("ready");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait().code, 143);
    assert_eq!(bed.state("deaf").as_deref(), Some("running"));
}
