//! What the measurements take time with: the CPU's time-stamp counter, since the kernel does not tell how long a thread was on a CPU, and its
//! clock is a system call, which takes as long as thousands of what is measured where ring 0 is interpreted.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};
use libtwz::time::{Duration, Instant};

/// How long the counter is held against the clock: a reading of the clock takes up to half a millisecond, so a quarter of a percent of this.
const CALIBRATION: Duration = Duration::from_millis(200);

/// A running stopwatch.
#[derive(Debug)]
pub(crate) struct Stopwatch(u64);

impl Stopwatch {
    /// Starts.
    pub(crate) fn start() -> Self {
        Self(ticks())
    }

    /// Time since, on a counter of constant rate.
    pub(crate) fn elapsed(&self) -> Time {
        Time(ticks().saturating_sub(self.0))
    }
}

/// Ticks that passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(u64);

/// Nanoseconds an operation.
pub(crate) type Each = f64;

impl Time {
    /// Of each of `count`.
    #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    pub(crate) fn each(self, count: u64) -> Each {
        self.0 as f64 / ticks_per_second() * 1e9 / count as f64
    }
}

fn ticks() -> u64 {
    // SAFETY: the instruction exists on every x86-64 CPU, changes no memory, and the kernel lets programs use it (CR4.TSD is clear).
    unsafe { _rdtsc() }
}

/// Measured at the first call.
#[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53 ticks")]
fn ticks_per_second() -> f64 {
    /// The bits of a float; 0: not measured.
    static RATE: AtomicU64 = AtomicU64::new(0);
    let known = f64::from_bits(RATE.load(Ordering::Relaxed));
    if known > 0.0 {
        return known;
    }
    let (begun, first) = (Instant::now(), ticks());
    while begun.elapsed() < CALIBRATION {}
    let (time, last) = (begun.elapsed(), ticks());
    let rate = last.saturating_sub(first) as f64 / time.as_secs_f64();
    RATE.store(rate.to_bits(), Ordering::Relaxed);
    rate
}
