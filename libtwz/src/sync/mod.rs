//! Concurrency primitives that stand in objects.

mod raw;

pub use raw::RawMutex;
