//! The keys that all sides use, and the time that they take.

use std::time::Duration;

/// Key `number`: all different, in no order.
pub(crate) fn key(number: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "a permutation of the 32-bit numbers")]
    let key = (number.wrapping_mul(2_654_435_761)) as u32;
    key
}

/// Numbers in another order than they were inserted in: a step that has no divisor in common with the counts used.
pub(crate) fn order(count: u64) -> impl Iterator<Item = u64> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at = (at + 7_368_787) % count;
        Some(at)
    })
}

/// Time that this process spent on the CPU: what others on the machine do does not count.
pub(crate) fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in one timespec; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Nanoseconds an operation of `work`, which does `count`.
pub(crate) fn timed<E>(count: u64, work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let begun = cpu_time();
    work()?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let count = count as f64;
    Ok((cpu_time() - begun).as_secs_f64() * 1e9 / count)
}
