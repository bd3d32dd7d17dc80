//! What `bench/apps` takes time with in a Linux process.

pub(crate) use bench::clock::{Each, timed};
