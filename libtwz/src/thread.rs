//! Threads, with `std::thread`'s shape.
//!
//! Hosted they are std's own. In the guest nothing unwinds: a thread that panics ends, and whoever joins it gets an [`Ended`] that says so.

#[cfg(not(feature = "guest"))]
pub use std::thread::{Builder, JoinHandle, Result, sleep, spawn, yield_now};

#[cfg(feature = "guest")]
pub use crate::sys::guest::thread::{Builder, Ended, JoinHandle, Result, sleep, spawn, yield_now};
