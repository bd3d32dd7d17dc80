//! What the measurements take time with, in a Linux process.

pub(crate) use bench::clock::{Each, Stopwatch, Time};
