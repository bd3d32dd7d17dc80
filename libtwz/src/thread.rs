//! Threads, with `std::thread`'s shape.
//!
//! Hosted they are std's own. In the guest nothing unwinds: a thread that panics ends, and whoever joins it gets an [`Ended`] that says so.

#[cfg(not(feature = "guest"))]
pub use std::thread::{
    AccessError, Builder, JoinHandle, LocalKey, Result, Scope, ScopedJoinHandle, Thread, ThreadId,
    available_parallelism, current, park, park_timeout, scope, sleep, spawn, yield_now,
};
#[cfg(not(feature = "guest"))]
pub use std::thread_local;

#[cfg(feature = "guest")]
pub use crate::sys::guest::thread::{
    AccessError, Builder, Ended, JoinHandle, LocalKey, Result, Scope, ScopedJoinHandle, Thread, ThreadId,
    available_parallelism, current, park, park_timeout, scope, sleep, spawn, thread_local, yield_now,
};
