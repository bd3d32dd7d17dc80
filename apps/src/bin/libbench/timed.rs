//! What `bench/apps` takes time with, inside: as for `libtwz`.

use crate::stopwatch::Stopwatch;

pub(crate) use crate::stopwatch::Each;

/// Nanoseconds an operation of `work`, which does `count`.
pub(crate) fn timed<E>(count: u64, work: impl FnOnce() -> Result<(), E>) -> Result<Each, E> {
    let begun = Stopwatch::start();
    work()?;
    Ok(begun.elapsed().each(count))
}
