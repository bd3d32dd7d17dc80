//! What the measurements take time with.

use std::time::Duration;

/// Time of this thread on a CPU: other programs on a busy machine do not count. The peers measure the same.
#[derive(Debug)]
pub(crate) struct Stopwatch(Duration);

impl Stopwatch {
    fn now() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a live timespec.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    /// Starts.
    pub(crate) fn start() -> Self {
        Self(Self::now())
    }

    /// Time since.
    pub(crate) fn elapsed(&self) -> Duration {
        Self::now().saturating_sub(self.0)
    }
}
