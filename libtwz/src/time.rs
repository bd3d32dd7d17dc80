//! Clocks, with `std::time`'s shape.

pub use core::time::Duration;

#[cfg(not(feature = "guest"))]
pub use std::time::{Instant, SystemTime, SystemTimeError, UNIX_EPOCH};

#[cfg(feature = "guest")]
pub use crate::sys::guest::time::{Instant, SystemTime, SystemTimeError, UNIX_EPOCH};
