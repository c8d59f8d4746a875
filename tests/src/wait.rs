//! Waiting for what happens in another process, with a deadline that says what was waited for.

use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How many times as long everything may take: for guests that are emulated.
const PATIENCE: &str = "HUSK_TEST_PATIENCE";

/// `HUSK_TEST_PATIENCE`, or 1.
///
/// # Panics
/// When it is no number, or 0.
#[must_use]
pub fn patience() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| match std::env::var(PATIENCE).as_deref().map(str::parse) {
        Ok(Ok(factor @ 1..)) => factor,
        Ok(_) => panic!("{PATIENCE} is no whole number from 1 on"),
        Err(_) => 1,
    })
}

/// The time limit of a usual machine, as it is on this one.
#[must_use]
pub fn patient(usual: Duration) -> Duration {
    usual * patience()
}

/// Waits until `look` gives something. Blocks up to `deadline`, as [`patient`] has it.
///
/// # Panics
/// With `what`, when the time is up.
pub fn eventually<T>(deadline: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(deadline, look).unwrap_or_else(|| panic!("not within {deadline:?}: {what}"))
}

/// Waits until `look` gives something, or the time is up, as [`patient`] has it.
pub fn within<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patient(deadline);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(LOOK_AGAIN);
    }
}
