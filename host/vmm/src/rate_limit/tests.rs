//! Buckets against an injected clock; the timer by itself.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limit(size: u64, one_time_burst: u64, refill_ms: u64) -> Limit {
    Limit { size, one_time_burst, refill_ms }
}

fn bytes(limit: Limit) -> Limits {
    Limits { bytes: Some(limit), operations: None }
}

/// Takes at `now`; what it took.
fn take(bucket: &mut Bucket, tokens: u64, now: Duration) -> bool {
    let may = bucket.wait(tokens, now).is_none();
    if may {
        bucket.take(tokens);
    }
    may
}

#[test]
fn full_bucket_is_emptied_and_fills_evenly() {
    let mut bucket = Bucket::new(limit(1000, 0, 1000), Duration::ZERO);
    assert!(take(&mut bucket, 1000, Duration::ZERO));
    assert!(!take(&mut bucket, 1, Duration::ZERO));
    assert_eq!(bucket.wait(250, Duration::ZERO), Some(SECOND / 4));
    assert!(!take(&mut bucket, 250, SECOND / 4 - Duration::from_nanos(1)));
    assert!(take(&mut bucket, 250, SECOND / 4));
    assert!(!take(&mut bucket, 1001, SECOND));
    assert!(take(&mut bucket, 1000, SECOND * 100));
    assert!(!take(&mut bucket, 1, SECOND * 100), "it holds no more than its size");
}

#[test]
fn burst_is_given_once() {
    let mut bucket = Bucket::new(limit(10, 100, 1000), Duration::ZERO);
    assert!(take(&mut bucket, 105, Duration::ZERO));
    assert!(take(&mut bucket, 5, Duration::ZERO));
    assert!(!take(&mut bucket, 1, Duration::ZERO));
    assert!(take(&mut bucket, 10, SECOND * 1000));
    assert!(!take(&mut bucket, 1, SECOND * 1000));
}

#[test]
fn what_is_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_afterwards() {
    let mut bucket = Bucket::new(limit(10, 0, 1000), Duration::ZERO);
    assert!(take(&mut bucket, 1, Duration::ZERO));
    assert!(!take(&mut bucket, 30, SECOND / 20));
    assert!(take(&mut bucket, 30, SECOND / 10));
    assert_eq!(bucket.wait(1, SECOND / 10), Some(SECOND * 2 + SECOND / 10));
}

#[test]
fn clock_that_goes_backwards_fills_nothing() {
    let mut bucket = Bucket::new(limit(10, 0, 1000), SECOND);
    assert!(take(&mut bucket, 10, SECOND));
    assert!(!take(&mut bucket, 1, Duration::ZERO));
    assert!(!take(&mut bucket, 1, SECOND));
    assert!(take(&mut bucket, 1, SECOND + SECOND / 10));
}

#[test]
fn neither_bucket_pays_for_what_the_other_refuses() {
    let limits = Limits { bytes: Some(limit(100, 0, 1000)), operations: Some(limit(2, 0, 1000)) };
    let mut buckets = Buckets::new(&limits, Duration::ZERO);
    assert_eq!(buckets.take(50, Duration::ZERO), Ok(()));
    assert_eq!(buckets.take(51, Duration::ZERO), Err(SECOND / 100));
    assert_eq!(buckets.take(50, Duration::ZERO), Ok(()), "the refused one took an operation");
    assert_eq!(buckets.take(0, Duration::ZERO), Err(SECOND / 2));
    assert_eq!(buckets.take(100, Duration::ZERO), Err(SECOND), "the longer wait counts");
}

#[test]
fn new_limits_keep_what_is_left_and_forgive_debt() {
    let mut buckets = Buckets::new(&bytes(limit(100, 0, 1000)), Duration::ZERO);
    assert_eq!(buckets.take(70, Duration::ZERO), Ok(()));
    buckets.change(&bytes(limit(1000, 0, 1000)), Duration::ZERO);
    assert_eq!(buckets.take(31, Duration::ZERO), Err(SECOND / 1000));
    buckets.change(&bytes(limit(20, 0, 1000)), Duration::ZERO);
    assert_eq!(buckets.take(20, Duration::ZERO), Ok(()));
    assert_eq!(buckets.take(1_000_000, SECOND), Ok(()));
    buckets.change(&bytes(limit(1, 0, 1000)), SECOND);
    assert_eq!(buckets.take(1, SECOND), Err(SECOND));
    buckets.change(&Limits::default(), SECOND);
    assert_eq!(buckets.take(u64::MAX, SECOND), Ok(()));
    buckets.change(&bytes(limit(5, 0, 1000)), SECOND);
    assert_eq!(buckets.take(5, SECOND), Ok(()), "a new bucket starts full");
}

#[test]
fn limits_of_zero_are_refused_by_the_config() {
    let parse = |text: &str| serde_json::from_str::<Limits>(text);
    let good = r#"{"bytes": {"size": 5, "refill_ms": 7}}"#;
    assert_eq!(parse(good).unwrap(), bytes(limit(5, 0, 7)));
    assert_eq!(parse("{}").unwrap(), Limits::default());
    for bad in [
        r#"{"bytes": {"size": 0, "refill_ms": 7}}"#,
        r#"{"bytes": {"size": 5, "refill_ms": 0}}"#,
        r#"{"bytes": {"size": 5}}"#,
        r#"{"operation": {"size": 5, "refill_ms": 7}}"#,
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

fn is_readable(limiter: &RateLimiter, timeout_ms: u16) -> bool {
    let mut fds = [PollFd::new(limiter.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(timeout_ms)).unwrap() == 1
}

#[test]
fn timer_tells_when_to_go_on() {
    let mut limiter = RateLimiter::new(&bytes(limit(100, 0, 20))).unwrap();
    assert!(limiter.take(100));
    assert!(!is_readable(&limiter, 0));
    let mut tries = 0;
    while !limiter.take(100) {
        assert!(is_readable(&limiter, 10_000), "the timer never came");
        limiter.on_timer();
        assert!(!is_readable(&limiter, 0));
        tries += 1;
        assert!(tries < 100);
    }
    assert!(limiter.throttled() >= 1);
}

#[test]
fn new_limits_wake_what_waits() {
    let mut limiter = RateLimiter::new(&bytes(limit(1, 0, 1_000_000_000))).unwrap();
    assert!(limiter.take(1));
    assert!(!limiter.take(1));
    assert!(!is_readable(&limiter, 5));
    limiter.reconfigure(&Limits::default()).unwrap();
    assert!(is_readable(&limiter, 10_000));
    assert!(limiter.take(u64::MAX));
}

#[derive(Debug, Clone)]
enum Move {
    Take(u64),
    Pass(u64),
    /// Asks how long to wait, waits so long, and must get it.
    TakeAfterWait(u64),
}

fn moves(most: u64) -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (0..=most).prop_map(Move::Take),
        (0..5_000_000_000u64).prop_map(Move::Pass),
        (0..=most).prop_map(Move::TakeAfterWait),
    ];
    prop::collection::vec(one, 1..60)
}

proptest! {
    /// Over any time, no more passes than the burst, a full bucket and what filled it since; and
    /// what is larger than a bucket is the only excess.
    #[test]
    fn never_more_than_rate_and_burst_and_never_stuck(
        size in 1..10_000u64,
        burst in 0..10_000u64,
        refill_ms in 1..10_000u64,
        moves in (1..30_000u64).prop_flat_map(moves),
    ) {
        let mut now = Duration::from_secs(77);
        let start = now;
        let mut bucket = Bucket::new(limit(size, burst, refill_ms), now);
        let mut taken = 0u128;
        let mut excess = 0u128;
        for step in moves {
            let tokens = match step {
                Move::Pass(nanoseconds) => {
                    now += Duration::from_nanos(nanoseconds);
                    continue;
                }
                Move::Take(tokens) => {
                    if !take(&mut bucket, tokens, now) {
                        continue;
                    }
                    tokens
                }
                Move::TakeAfterWait(tokens) => {
                    now += bucket.wait(tokens, now).unwrap_or_default();
                    prop_assert!(take(&mut bucket, tokens, now), "it had to be enough by now");
                    tokens
                }
            };
            taken += u128::from(tokens);
            excess = excess.max(u128::from(tokens.saturating_sub(size)));
            let filled = (now - start).as_nanos() * u128::from(size)
                / (u128::from(refill_ms) * 1_000_000);
            let most = u128::from(size) + u128::from(burst) + filled + excess;
            prop_assert!(taken <= most, "{taken} of {most}");
        }
    }

    /// No number of a config or a clock overflows.
    #[test]
    fn any_numbers_are_survived(
        limits in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..8),
        tokens in prop::collection::vec(any::<u64>(), 1..20),
        times in prop::collection::vec(any::<u64>(), 1..20),
    ) {
        let mut buckets = Buckets::default();
        for (size, burst, refill) in limits {
            for &time in &times {
                buckets.change(&bytes(limit(size, burst, refill)), Duration::from_secs(time));
                for &tokens in &tokens {
                    let now = Duration::from_secs(time);
                    if let Err(wait) = buckets.take(tokens, now) {
                        prop_assert!(wait > Duration::ZERO);
                    }
                }
            }
        }
    }
}
