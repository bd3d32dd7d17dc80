//! What the measurements take time with: the machine's clock, since the kernel does not tell how long a thread was on a CPU. Each reading
//! is a system call; measurements are thousands of operations long.

use libtwz::time::{Duration, Instant};

/// A running stopwatch.
#[derive(Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
