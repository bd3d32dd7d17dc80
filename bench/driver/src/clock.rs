//! What the measurements of a Linux process take time with.
//!
//! Two clocks: time on the CPU, which what others on the machine do does not change, is put beside the peers, which take the same
//! (`peers/peer.h`). A program on Twizzler only knows the clock on the wall, so what is put beside such a one is that.

use std::time::{Duration, Instant};

/// Nanoseconds an operation.
#[derive(Clone, Copy, Debug)]
pub struct Each {
    /// On the CPU.
    pub cpu: f64,
    /// On the wall.
    pub wall: f64,
}

/// A running stopwatch.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    cpu: Duration,
    wall: Instant,
}

impl Stopwatch {
    /// Starts.
    #[must_use]
    pub fn start() -> Self {
        let wall = Instant::now();
        Self { cpu: cpu_time(), wall }
    }

    /// Time since.
    #[must_use]
    pub fn elapsed(&self) -> Time {
        Time { cpu: cpu_time() - self.cpu, wall: self.wall.elapsed() }
    }
}

/// Time that passed.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    cpu: Duration,
    wall: Duration,
}

impl Time {
    /// Of each of `count`.
    #[must_use]
    pub fn each(self, count: u64) -> Each {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let each = |time: Duration| time.as_secs_f64() * 1e9 / count as f64;
        Each { cpu: each(self.cpu), wall: each(self.wall) }
    }
}

/// Time that this process spent on the CPU.
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
pub fn timed<E>(count: u64, work: impl FnOnce() -> Result<(), E>) -> Result<Each, E> {
    let begun = Stopwatch::start();
    work()?;
    Ok(begun.elapsed().each(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_takes_no_time_on_the_cpu() {
        let wait = Duration::from_millis(20);
        let each = timed::<()>(2, || {
            std::thread::sleep(wait);
            Ok(())
        });
        let each = each.unwrap();
        assert!(each.wall >= 10e6 && each.cpu < each.wall, "{each:?}");
    }
}
