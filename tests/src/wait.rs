//! Waiting for what happens in another process, with a deadline that says what was waited for.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long may be waited on a busy machine whose guests are emulated. Of interest only where a
/// test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How far the looks are apart between which nothing changes that has come to rest.
const REST: Duration = Duration::from_millis(500);

/// Waits until `look` gives something. Blocks up to [`PATIENCE`].
///
/// # Panics
/// With `what`, when the time is up.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, look).unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
}

/// Waits until `look` finds what it has found a moment before. Blocks up to [`PATIENCE`].
///
/// # Panics
/// With `what`, when it changes on and on.
pub fn at_rest<T: PartialEq>(what: &str, mut look: impl FnMut() -> T) -> T {
    let mut last = look();
    eventually(&format!("{what} is at rest"), || {
        sleep(REST);
        let now = look();
        let same = now == last;
        last = now;
        same.then_some(())
    });
    last
}

/// Waits until `look` gives something, or the time is up: `deadline` as often as [`patience`] says.
pub fn within<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline * patience();
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

/// How many times as long as on a usual machine everything may take: `HUSK_TEST_PATIENCE`, for
/// whole boots where KVM emulates kernel code.
///
/// # Panics
/// When it is no whole number from 1 on.
#[must_use]
pub fn patience() -> u32 {
    let Ok(word) = std::env::var("HUSK_TEST_PATIENCE") else { return 1 };
    let factor = word.parse().ok().filter(|&factor| factor > 0);
    factor.unwrap_or_else(|| panic!("HUSK_TEST_PATIENCE is no whole number from 1 on: {word}"))
}
