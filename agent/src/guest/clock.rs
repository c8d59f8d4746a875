//! The wall clock, which a guest that was paused or restored has behind the host's.

use std::time::Duration;

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime, clock_settime},
};

use super::{GuestError, Result};

/// A smaller difference is that of the message's own way, and a step costs every timer of the
/// guest.
const MIN_STEP: Duration = Duration::from_millis(10);

/// What was found, and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction {
    /// The guest's clock minus the host's, in nanoseconds.
    pub ahead_ns: i64,
    /// Whether the clock was set.
    pub stepped: bool,
}

/// Sets the clock, whatever it was.
///
/// # Errors
/// [`GuestError::Call`].
pub fn set(now: Duration) -> Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from(now))
        .map_err(GuestError::call("set", "the clock"))
}

/// Sets the clock when it is off.
///
/// # Errors
/// [`GuestError`]: 0 is no time.
pub fn correct(host: Duration) -> Result<Correction> {
    if host.is_zero() {
        return Err(GuestError::invalid("wall_clock_ns", "is missing"));
    }
    let guest = clock_gettime(ClockId::CLOCK_REALTIME)
        .map(Duration::from)
        .map_err(GuestError::call("read", "the clock"))?;
    let correction = compare(guest, host);
    if correction.stepped {
        set(host)?;
    }
    Ok(correction)
}

fn compare(guest: Duration, host: Duration) -> Correction {
    let difference = guest.abs_diff(host);
    let size = i64::try_from(difference.as_nanos()).unwrap_or(i64::MAX);
    Correction {
        ahead_ns: if guest < host { -size } else { size },
        stepped: difference >= MIN_STEP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_has_a_sign_and_a_threshold() {
        let at = Duration::from_secs;
        assert_eq!(compare(at(5), at(7)), Correction { ahead_ns: -2_000_000_000, stepped: true });
        let near = at(7) + Duration::from_millis(3);
        assert_eq!(compare(near, at(7)), Correction { ahead_ns: 3_000_000, stepped: false });
    }
}
