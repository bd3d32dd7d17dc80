//! What the measurements of a Linux process take time with. The peers in C take the same (`peers/peer.h`).

use std::time::Duration;

/// Time that this process spent on the CPU: what others on the machine do does not count.
#[must_use]
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in one timespec; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Nanoseconds an operation of `work`, which does `count`.
///
/// # Errors
/// What `work` says.
pub fn timed<E>(count: u64, work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let begun = cpu_time();
    work()?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let count = count as f64;
    Ok((cpu_time() - begun).as_secs_f64() * 1e9 / count)
}
