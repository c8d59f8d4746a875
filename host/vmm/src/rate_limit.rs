//! Token buckets that bound how many bytes and operations a device does in a time, and the timer
//! that says when it may go on. Knows no device.
//!
//! A bucket holds at most [`Limit::size`] tokens and fills evenly, from empty to full in
//! [`Limit::refill_ms`]. It starts full, with a burst on top that is never filled again.
//!
//! ```text
//! Flowing --tokens are short: timer is set--> Waiting --timer, or new limits--> Flowing
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::{Deserialize, Deserializer, Serialize};

/// No wait is shorter: a guest that is always short of tokens costs a thousand wake-ups a second,
/// not one for each request.
const MIN_WAIT: Duration = Duration::from_millis(1);
/// No wait is longer; who wakes too early waits again.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// One bucket: of bytes, or of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Tokens that it holds when full, at least 1. What takes more at one time waits until it is
    /// full, and pays the rest afterwards.
    #[serde(deserialize_with = "positive")]
    pub size: u64,
    /// Tokens beside those, to be used once.
    #[serde(default)]
    pub one_time_burst: u64,
    /// Milliseconds from empty to full, at least 1.
    #[serde(deserialize_with = "positive")]
    pub refill_ms: u64,
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom("a limit has to be above 0")),
        number => Ok(number),
    }
}

/// The limits of a device, or of one of its directions. What is `None` is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Of bytes.
    pub bytes: Option<Limit>,
    /// Of operations: requests, packets.
    pub operations: Option<Limit>,
}

/// A bucket as arithmetic: the time is told to it, as what has passed since any fixed moment.
///
/// Credits are tokens times the nanoseconds that fill the bucket, so that each nanosecond is worth
/// [`Limit::size`] credits and nothing is lost by rounding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bucket {
    size: u64,
    burst: u64,
    refill_ns: u64,
    /// Below zero after more was taken than the bucket holds.
    credits: i128,
    seen: Duration,
}

impl Bucket {
    fn new(limit: Limit, now: Duration) -> Self {
        let refill_ns = limit.refill_ms.max(1).saturating_mul(1_000_000);
        // Numbers beyond 62 bits are as good as no limit, and below it no product overflows.
        let size = limit.size.clamp(1, 1 << 62);
        let refill_ns = refill_ns.min(1 << 62);
        let mut bucket =
            Self { size, burst: limit.one_time_burst, refill_ns, credits: 0, seen: now };
        bucket.credits = bucket.worth(size);
        bucket
    }

    fn worth(&self, tokens: u64) -> i128 {
        i128::from(tokens.min(1 << 62)) * i128::from(self.refill_ns)
    }

    fn full(&self) -> i128 {
        self.worth(self.size)
    }

    fn refill(&mut self, now: Duration) {
        // A clock that goes backwards fills nothing.
        let passed = now.saturating_sub(self.seen);
        self.seen = self.seen.max(now);
        let passed_ns = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX).min(1 << 62);
        let gained = i128::from(self.size) * i128::from(passed_ns);
        self.credits = self.credits.saturating_add(gained).min(self.full());
    }

    /// Credits that have to be there for `tokens` beyond the burst: what is more than a bucket is
    /// owed, else it could never be taken.
    fn needed(&self, tokens: u64) -> i128 {
        self.worth(tokens.saturating_sub(self.burst).min(self.size))
    }

    /// How long until `tokens` can be taken; `None` if they can be now.
    fn wait(&mut self, tokens: u64, now: Duration) -> Option<Duration> {
        self.refill(now);
        let missing = self.needed(tokens) - self.credits;
        if missing <= 0 || tokens == 0 {
            return None;
        }
        let size = i128::from(self.size);
        let nanoseconds = (missing + size - 1) / size;
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    /// After [`Self::wait`] said that they can be taken.
    fn take(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        self.credits = self.credits.saturating_sub(self.worth(tokens - from_burst));
    }

    /// The bucket of a new limit: as many tokens as the old one had, but no debt, which the new
    /// limit might take for ever to pay.
    fn changed(&self, limit: Limit, now: Duration) -> Self {
        let mut old = self.clone();
        old.refill(now);
        let tokens = u64::try_from(old.credits.max(0) / i128::from(old.refill_ns)).unwrap_or(0);
        let mut new = Self::new(limit, now);
        new.credits = new.worth(tokens.min(new.size));
        new
    }
}

/// Both buckets: what is taken comes out of both, or of none.
#[derive(Debug, Clone, Default)]
struct Buckets {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Buckets {
    fn new(limits: &Limits, now: Duration) -> Self {
        let bucket = |limit: Option<Limit>| limit.map(|limit| Bucket::new(limit, now));
        Self { bytes: bucket(limits.bytes), operations: bucket(limits.operations) }
    }

    fn take(&mut self, bytes: u64, now: Duration) -> Result<(), Duration> {
        let wait = |bucket: &mut Option<Bucket>, tokens| {
            bucket.as_mut().and_then(|bucket| bucket.wait(tokens, now))
        };
        let waits = [wait(&mut self.bytes, bytes), wait(&mut self.operations, 1)];
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Err(wait);
        }
        self.bytes.iter_mut().for_each(|bucket| bucket.take(bytes));
        self.operations.iter_mut().for_each(|bucket| bucket.take(1));
        Ok(())
    }

    fn change(&mut self, limits: &Limits, now: Duration) {
        let change = |bucket: &Option<Bucket>, limit: Option<Limit>| match (bucket, limit) {
            (_, None) => None,
            (None, Some(limit)) => Some(Bucket::new(limit, now)),
            (Some(bucket), Some(limit)) => Some(bucket.changed(limit, now)),
        };
        self.bytes = change(&self.bytes, limits.bytes);
        self.operations = change(&self.operations, limits.operations);
    }
}

/// The limits of a device as it runs. Its descriptor, a timer, is one of the device's sources: it
/// is readable when something that was refused is to be tried again.
#[derive(Debug)]
pub struct RateLimiter {
    buckets: Buckets,
    origin: Instant,
    timer: TimerFd,
    throttled: u64,
}

impl RateLimiter {
    /// A limiter with full buckets.
    ///
    /// # Errors
    /// Those of timerfd_create(2).
    pub fn new(limits: &Limits) -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let buckets = Buckets::new(limits, Duration::ZERO);
        Ok(Self { buckets, origin: Instant::now(), timer, throttled: 0 })
    }

    /// Takes the tokens of one operation with so many bytes. If it may not be done yet, `false`,
    /// and the timer tells when to try again.
    pub fn take(&mut self, bytes: u64) -> bool {
        if self.buckets.bytes.is_none() && self.buckets.operations.is_none() {
            return true;
        }
        match self.buckets.take(bytes, self.origin.elapsed()) {
            Ok(()) => true,
            Err(wait) => {
                self.throttled += 1;
                // A timer that cannot be set would never wake the device: rather no limit.
                self.set_timer(wait.clamp(MIN_WAIT, MAX_WAIT)).is_err()
            }
        }
    }

    /// The timer is readable: quiet again, and the device works on.
    pub fn on_timer(&mut self) {
        // EAGAIN: it was set anew since.
        let _ = self.timer.wait();
    }

    /// Other limits from now on. Tokens that are left stay, up to the new size; debt is forgiven;
    /// the new burst is granted. What waits is tried again at once.
    ///
    /// # Errors
    /// Those of timerfd_settime(2).
    pub fn reconfigure(&mut self, limits: &Limits) -> io::Result<()> {
        self.buckets.change(limits, self.origin.elapsed());
        self.set_timer(Duration::from_nanos(1))
    }

    /// How often something had to wait.
    #[must_use]
    pub fn throttled(&self) -> u64 {
        self.throttled
    }

    fn set_timer(&self, wait: Duration) -> io::Result<()> {
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        Ok(self.timer.set(expiration, TimerSetTimeFlags::empty())?)
    }
}

impl AsFd for RateLimiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests;
