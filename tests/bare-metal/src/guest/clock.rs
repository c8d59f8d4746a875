//! Time, by the time stamp counter, whose rate is measured with the local APIC's timer: a tick of
//! it is a nanosecond under KVM and QEMU alike.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

use super::interrupts::{TIMER_COUNT, TIMER_DIVIDE, TIMER_INITIAL, TIMER_VECTOR, enable};
use super::memory;

const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;
const MEASURE_NS: u32 = 1_000_000;

static TICKS_PER_MS: AtomicU64 = AtomicU64::new(0);

/// The time stamp counter.
#[allow(unsafe_code)]
pub fn ticks() -> u64 {
    // SAFETY: every processor of 64 bits has it, and ring 3 may read it.
    unsafe { _rdtsc() }
}

fn ticks_per_ms() -> u64 {
    match TICKS_PER_MS.load(Ordering::Relaxed) {
        0 => measure(),
        rate => rate,
    }
}

fn measure() -> u64 {
    enable();
    memory::write32(TIMER_DIVIDE, DIVIDE_BY_1);
    memory::write32(TIMER_VECTOR, MASKED);
    memory::write32(TIMER_INITIAL, u32::MAX);
    let (start, first) = (ticks(), memory::read32(TIMER_COUNT));
    let (end, passed) = loop {
        let passed = first.wrapping_sub(memory::read32(TIMER_COUNT));
        if passed >= MEASURE_NS {
            break (ticks(), passed);
        }
    };
    memory::write32(TIMER_INITIAL, 0);
    let rate = ((end - start) * 1_000_000 / u64::from(passed)).max(1);
    TICKS_PER_MS.store(rate, Ordering::Relaxed);
    rate
}

/// Microseconds from one reading of the counter to another.
pub fn micros(from: u64, to: u64) -> u64 {
    (to - from) * 1000 / ticks_per_ms()
}

/// A point in time.
#[derive(Clone, Copy)]
pub struct Deadline(u64);

/// How long a device or the host may take for what they have to do, on a machine that does much
/// else.
pub const PATIENCE_MS: u64 = 60_000;

/// So many milliseconds from now.
pub fn after_ms(ms: u64) -> Deadline {
    Deadline(ticks() + ms * ticks_per_ms())
}

impl Deadline {
    /// Whether it is past.
    pub fn is_past(self) -> bool {
        ticks() >= self.0
    }
}

/// Does nothing for so long.
pub fn pause_ms(ms: u64) {
    let end = after_ms(ms);
    while !end.is_past() {
        core::hint::spin_loop();
    }
}
