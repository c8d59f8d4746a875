//! The network device, with this kernel on the other side of its tap.

use husk_tests::bare_bed::{Setup, Tap};
use husk_vmm::control::Request;
use husk_vmm::rate_limit::{Limit, Limits};
use husk_vmm::virtio::net::Mac;

use super::{DEADLINE, kvm_or_skip, pass, start};

/// `None`, loudly, where no tap can be made.
pub fn with_tap(case: &str) -> Option<Setup> {
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

#[test]
fn frames_from_the_address_of_another_are_dropped_and_counted() {
    let Some(setup) = with_tap("net-spoof frames=3 linger=1") else { return };
    let kvm = kvm_or_skip!();
    let guest = start(&setup, kvm);
    guest.expect("PASSED", DEADLINE);
    assert_eq!(guest.counter("net", "tx_dropped_spoofed"), 3, "{:?}", guest.statistics());
    assert!(guest.counter("net", "rx_packets") >= 2, "{:?}", guest.statistics());
    guest.command(Request::Stop);
    guest.finish(DEADLINE);
}

#[test]
fn limits_of_a_running_card_can_change() {
    let Some(setup) = with_tap("net-ping pings=65000 linger=1") else { return };
    let kvm = kvm_or_skip!();
    let guest = start(&setup, kvm);
    let sent = |more: u64| {
        let look = || (guest.counter("net", "tx_packets") >= more).then_some(());
        husk_tests::wait::eventually("packets are sent", look);
    };
    let limit = |limits| {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        guest.command(Request::NetLimits { mac, rx: limits, tx: limits });
    };
    sent(2);
    // A packet in a second; the guest waits five for an answer.
    let slow = Limit { size: 1, one_time_burst: 0, refill_ms: 1000 };
    limit(Limits { bytes: None, operations: Some(slow) });
    let throttled = || guest.counter("net", "rx_throttled") + guest.counter("net", "tx_throttled");
    let look = || (throttled() > 0).then_some(());
    husk_tests::wait::eventually("packets wait", look);
    limit(Limits::default());
    sent(guest.counter("net", "tx_packets") + 20);
    guest.command(Request::Stop);
    assert!(guest.finish(DEADLINE).status.is_some_and(|status| status.success()));
}
