//! The network device, with this kernel on the other side of its tap.

use husk_tests::bare_bed::{Setup, Tap};

use super::pass;

/// `None`, loudly, where no tap can be made.
fn with_tap(case: &str) -> Option<Setup> {
    match Tap::new() {
        Ok(tap) => Some(Setup { rng: false, tap: Some(tap), ..Setup::new(case) }),
        Err(error) => {
            eprintln!("SKIPPED: make a tap: {error}");
            None
        }
    }
}

fn run(cases: &[&str]) {
    for case in cases {
        let Some(setup) = with_tap(case) else { return };
        if pass(&setup).is_none() {
            return;
        }
    }
}

#[test]
fn card_has_the_configured_address() {
    let Some(setup) = with_tap("net-config") else { return };
    let Some(ended) = pass(&setup) else { return };
    assert_eq!(ended.values("mac "), ["02:00:00:00:00:01"]);
}

#[test]
fn frames_pass_both_ways_unchanged() {
    run(&["net-arp", "net-ping", "net-ping-interrupt"]);
}

#[test]
fn frame_larger_than_a_buffer_takes_several() {
    run(&["net-mergeable"]);
}

#[test]
fn full_receive_ring_with_a_full_tap_recovers() {
    run(&["net-receive-ring-full"]);
}

#[test]
fn odd_frames_and_useless_buffers_are_survived() {
    run(&["net-odd-frames"]);
}

#[test]
fn nothing_is_written_to_memory_after_a_reset() {
    run(&["net-reset"]);
}
