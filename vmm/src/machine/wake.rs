//! How other threads reach a hart: sleep, wake-up, interruption of `KVM_RUN`.
//!
//! ```text
//! Absent --enter--> Inside <--sleep/wake--> Asleep
//! ```
//! A reason ([`Reasons`]) is latched first, then the hart is made to look: out of its sleep by the condition variable, out of
//! `KVM_RUN` by `immediate_exit` and a signal. A hart reads its reasons after it cleared `immediate_exit`, so none is lost.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// The hart's timer has expired.
pub(super) const TIMER: u32 = 1 << 0;
/// Somebody wants the hart to look around.
pub(super) const KICK: u32 = 1 << 1;
/// The machine stops.
pub(super) const STOP: u32 = 1 << 2;

/// What a hart's thread is doing, as far as others care.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Awake,
    Asleep,
}

/// The part of a hart that other threads use.
pub(super) struct Doorbell {
    reasons: AtomicU32,
    place: Mutex<Place>,
    woken: Condvar,
    /// `immediate_exit` of the vCPU that the hart is in; null before and after.
    immediate_exit: AtomicPtr<u8>,
    thread: AtomicU64,
}

extern "C" fn interrupt_only(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn kick_signal() -> i32 {
    SIGRTMIN() + 1
}

/// Installs the handler of the kick signal, which does nothing but interrupt `KVM_RUN`.
///
/// # Errors
/// The host's.
pub(super) fn install_handler() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(kick_signal(), interrupt_only)
}

impl Doorbell {
    /// Of a hart whose thread does not exist yet.
    #[must_use]
    pub(super) fn new() -> Self {
        Self {
            reasons: AtomicU32::new(0),
            place: Mutex::new(Place::Awake),
            woken: Condvar::new(),
            immediate_exit: AtomicPtr::new(ptr::null_mut()),
            thread: AtomicU64::new(0),
        }
    }

    /// The calling thread is the hart's, and is about to use the vCPU whose `immediate_exit` is given.
    ///
    /// # Safety
    /// The byte must stay valid until [`Doorbell::leave`].
    pub(super) unsafe fn enter(&self, immediate_exit: *mut u8) {
        // SAFETY: asks for the caller's own name.
        self.thread.store(unsafe { libc::pthread_self() }, Ordering::Relaxed);
        self.immediate_exit.store(immediate_exit, Ordering::Release);
    }

    /// The hart's thread is about to end or to use another vCPU.
    pub(super) fn leave(&self) {
        let _guard = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        self.immediate_exit.store(ptr::null_mut(), Ordering::Release);
    }

    /// Gives the hart a reason to look up.
    pub(super) fn ring(&self, reasons: u32) {
        self.reasons.fetch_or(reasons, Ordering::SeqCst);
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if *place == Place::Asleep {
            self.woken.notify_one();
            return;
        }
        let flag = self.immediate_exit.load(Ordering::Acquire);
        if !flag.is_null() {
            // SAFETY: `leave` takes the lock that we hold before the byte can go (contract of `enter`); KVM reads it as one byte.
            unsafe { flag.write_volatile(1) };
            fence(Ordering::SeqCst);
            // SAFETY: the thread exists until `leave` has returned, and has a handler for this signal.
            unsafe { libc::pthread_kill(self.thread.load(Ordering::Relaxed), kick_signal()) };
        }
    }

    /// Takes the reasons that have come up; the hart calls it after clearing `immediate_exit`.
    pub(super) fn take(&self) -> u32 {
        fence(Ordering::SeqCst);
        self.reasons.swap(0, Ordering::SeqCst)
    }

    /// Sleeps until there is a reason, and takes it.
    pub(super) fn sleep(&self) -> u32 {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let reasons = self.reasons.swap(0, Ordering::SeqCst);
            if reasons != 0 {
                *place = Place::Awake;
                return reasons;
            }
            *place = Place::Asleep;
            place = self.woken.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_reason_before_the_sleep_is_not_lost() {
        let bell = Doorbell::new();
        bell.ring(KICK);
        bell.ring(TIMER);
        assert_eq!(bell.sleep(), KICK | TIMER);
        assert_eq!(bell.take(), 0);
    }

    #[test]
    fn wakes_a_sleeper() {
        let bell = Arc::new(Doorbell::new());
        let sleeper = Arc::clone(&bell);
        let thread = std::thread::spawn(move || sleeper.sleep());
        bell.ring(STOP);
        assert_eq!(thread.join().expect("sleeper"), STOP);
    }
}
