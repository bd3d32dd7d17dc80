//! Clocks; see [`crate::time`]. Reading one is a system call.

use super::Guest;
use crate::sys::Seam;
use core::fmt;
use core::ops::{Add, AddAssign, Sub, SubAssign};
use core::time::Duration;

/// What moments of both clocks have in common: a time may be added and taken away.
macro_rules! moves_by_a_duration {
    ($moment:ident) => {
        impl $moment {
            /// This much later.
            #[must_use]
            pub fn checked_add(&self, time: Duration) -> Option<Self> {
                self.0.checked_add(time).map(Self)
            }

            /// This much earlier.
            #[must_use]
            pub fn checked_sub(&self, time: Duration) -> Option<Self> {
                self.0.checked_sub(time).map(Self)
            }
        }

        impl Add<Duration> for $moment {
            type Output = Self;
            fn add(self, time: Duration) -> Self {
                Self(self.0 + time)
            }
        }

        impl AddAssign<Duration> for $moment {
            fn add_assign(&mut self, time: Duration) {
                self.0 += time;
            }
        }

        impl Sub<Duration> for $moment {
            type Output = Self;
            fn sub(self, time: Duration) -> Self {
                Self(self.0 - time)
            }
        }

        impl SubAssign<Duration> for $moment {
            fn sub_assign(&mut self, time: Duration) {
                self.0 -= time;
            }
        }
    };
}

moves_by_a_duration!(Instant);
moves_by_a_duration!(SystemTime);

/// A moment of a clock that never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(Guest::monotonic())
    }

    /// Time since this moment.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Self::now().duration_since(*self)
    }

    /// Time from `earlier` to this moment; zero if it is later.
    #[must_use]
    pub fn duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// As [`Instant::duration_since`]; `None` if it is later.
    #[must_use]
    pub fn checked_duration_since(&self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0)
    }

    /// As [`Instant::duration_since`].
    #[must_use]
    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

/// A moment of the calendar's clock, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemTime(Duration);

/// The beginning of 1970.
pub const UNIX_EPOCH: SystemTime = SystemTime(Duration::ZERO);

/// The second moment was later; holds by how much.
#[derive(Clone, Copy, Debug)]
pub struct SystemTimeError(Duration);

impl SystemTimeError {
    /// By how much it was later.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        self.0
    }
}

impl fmt::Display for SystemTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("second time provided was later than self")
    }
}

impl core::error::Error for SystemTimeError {}

impl SystemTime {
    /// The beginning of 1970.
    pub const UNIX_EPOCH: Self = UNIX_EPOCH;

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(Guest::realtime())
    }

    /// Time from `earlier` to this moment.
    ///
    /// # Errors
    /// [`SystemTimeError`] if it is later.
    pub fn duration_since(&self, earlier: Self) -> Result<Duration, SystemTimeError> {
        self.0.checked_sub(earlier.0).ok_or_else(|| SystemTimeError(earlier.0.saturating_sub(self.0)))
    }

    /// Time since this moment.
    ///
    /// # Errors
    /// As [`SystemTime::duration_since`]: the clock was set back.
    pub fn elapsed(&self) -> Result<Duration, SystemTimeError> {
        Self::now().duration_since(*self)
    }
}
