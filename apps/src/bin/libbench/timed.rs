//! What `bench/apps` takes time with, inside: as for `libtwz`.

use crate::stopwatch::Stopwatch;

/// Nanoseconds an operation of `work`, which does `count`.
pub(crate) fn timed<E>(count: u64, work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let begun = Stopwatch::start();
    work()?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let count = count as f64;
    Ok(begun.elapsed().as_secs_f64() * 1e9 / count)
}
