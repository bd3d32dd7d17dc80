//! The time of day without a system call: the CPU's time-stamp counter, compared with the kernel's clock once.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::AtomicU32;
use twz_rt::abi::ErrorCode;
use twz_rt::{sync, syscall};

/// How long the two are compared, in nanoseconds: 20 ms, so that an exit's time more or less is 0.1 %.
const COMPARED: u64 = 20_000_000;

/// A clock that goes on from where it was set.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    /// Nanoseconds since 1970 when the counter stood at `counter`.
    nanoseconds: u64,
    counter: u64,
    /// Counts in [`COMPARED`] nanoseconds' time: (nanoseconds, counts).
    rate: (u64, u64),
}

fn counter() -> u64 {
    // SAFETY: every 64-bit CPU has it, and the kernel lets programs use it.
    unsafe { _rdtsc() }
}

impl Clock {
    /// Sets it by the kernel's clock.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn calibrate() -> Result<Self, ErrorCode> {
        let (began, from) = (syscall::clock()?.0, counter());
        let never = AtomicU32::new(0);
        // Its end is that the time is up.
        let _ = sync::wait(&never, 0, COMPARED);
        let ((ended, nanoseconds), to) = (syscall::clock()?, counter());
        let rate = (ended.saturating_sub(began).max(1), to.saturating_sub(from).max(1));
        Ok(Self { nanoseconds, counter: to, rate })
    }

    /// Nanoseconds since 1970.
    pub(crate) fn now(self) -> u64 {
        let counts = u128::from(counter().saturating_sub(self.counter));
        let passed = counts * u128::from(self.rate.0) / u128::from(self.rate.1);
        self.nanoseconds.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}
