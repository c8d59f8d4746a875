//! The rate of the processor's time stamp counter, as Linux hides it: measured against the clock.

#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// How long a measurement takes. Each end is off by half the width of its best reading, some tens
/// of nanoseconds: 50 ppm together.
const WINDOW: Duration = Duration::from_millis(2);
/// Readings at each end, of which the one that was least disturbed counts.
const READINGS: usize = 8;

/// Ticks per millisecond of the counter, or `None` where it cannot be told. Sleeps for about
/// 2 ms.
#[must_use]
pub fn measure_khz() -> Option<u32> {
    let start = sample();
    std::thread::sleep(WINDOW);
    let end = sample();
    let ticks = u128::from(end.ticks.checked_sub(start.ticks)?);
    let nanos = end.at.checked_duration_since(start.at)?.as_nanos();
    u32::try_from(ticks.checked_mul(1_000_000)?.checked_div(nanos)?).ok().filter(|khz| *khz > 0)
}

struct Sample {
    ticks: u64,
    at: Instant,
}

/// Counter and clock at one time: the reading whose two sides lie closest together.
fn sample() -> Sample {
    let mut best: Option<(u64, Sample)> = None;
    for _ in 0..READINGS {
        let before = ticks();
        let at = Instant::now();
        let width = ticks().wrapping_sub(before);
        if best.as_ref().is_none_or(|(narrowest, _)| width < *narrowest) {
            best = Some((width, Sample { ticks: before + width / 2, at }));
        }
    }
    best.map_or_else(|| Sample { ticks: ticks(), at: Instant::now() }, |(_, sample)| sample)
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets user space execute it unless a
    // process forbids it itself, prctl(2) PR_SET_TSC.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (first, second) = (measure_khz().unwrap(), measure_khz().unwrap());
        // 1 %: the machine may be busy.
        assert!(first.abs_diff(second) < first / 100, "{first} {second}");
    }
}
