//! A clock that gets a thread out of `KVM_RUN`.
//!
//! # Contract
//! - While a [`Watchdog`] is armed and past its limit, its thread gets a signal every [`REPEAT`], so a signal that comes
//!   just before `KVM_RUN` is followed by one that comes inside it.
//! - The signal does nothing but interrupt: `KVM_RUN` returns `EINTR`, and the caller asks [`Watchdog::expired`].
//! - The handler is installed once for the process and stays: another thread's watchdog may still need it.

use crate::lab::Trouble;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time between signals after the limit.
pub(crate) const REPEAT: Duration = Duration::from_millis(10);

/// Added to `SIGRTMIN`, clear of the numbers that VMMs usually take.
const SIGNAL_OFFSET: libc::c_int = 13;

/// A timer of this thread. Not `Send`: it signals the thread that made it.
pub(crate) struct Watchdog {
    timer: libc::timer_t,
    limit: Option<Instant>,
    old_mask: libc::sigset_t,
    thread_bound: PhantomData<*const ()>,
}

extern "C" fn interrupt(_: libc::c_int) {}

fn signal() -> libc::c_int {
    libc::SIGRTMIN() + SIGNAL_OFFSET
}

fn install_handler() -> Result<(), Trouble> {
    static INSTALLED: OnceLock<i32> = OnceLock::new();
    let errno = *INSTALLED.get_or_init(|| {
        // SAFETY: all zero is a valid sigaction: no flags (so no restart), an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = interrupt as *const () as libc::sighandler_t;
        // SAFETY: the handler is a function of the right type that does nothing, so it may run anywhere.
        let result = unsafe { libc::sigaction(signal(), &action, std::ptr::null_mut()) };
        if result == 0 { 0 } else { crate::lab::last_errno() }
    });
    if errno == 0 { Ok(()) } else { Err(Trouble::Call { what: "sigaction", errno }) }
}

/// The set that holds the watchdog's signal only.
fn signal_set() -> libc::sigset_t {
    // SAFETY: all zero is a valid sigset_t.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set and the number is a real-time signal's.
    unsafe { libc::sigaddset(&mut set, signal()) };
    set
}

impl Watchdog {
    /// Makes a timer for the calling thread, not yet armed.
    pub(crate) fn new() -> Result<Self, Trouble> {
        install_handler()?;
        let unblocked = signal_set();
        // SAFETY: all zero is a valid sigset_t, and is overwritten.
        let mut old_mask: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: both sets are valid; the call changes this thread's mask only.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &unblocked, &mut old_mask) };
        if result != 0 {
            return Err(Trouble::Call { what: "pthread_sigmask", errno: result });
        }
        // SAFETY: all zero is a valid sigevent.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        // SAFETY: takes no argument and cannot fail.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both pointers are to live locals of the right types.
        let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
        if result != 0 {
            return Err(Trouble::last("timer_create"));
        }
        Ok(Self { timer, limit: None, old_mask, thread_bound: PhantomData })
    }

    /// Starts the clock anew; after `limit` the signals begin.
    pub(crate) fn arm(&mut self, limit: Duration) -> Result<(), Trouble> {
        self.limit = Some(Instant::now() + limit);
        self.set(limit, REPEAT)
    }

    /// Stops the signals.
    pub(crate) fn disarm(&mut self) -> Result<(), Trouble> {
        self.limit = None;
        self.set(Duration::ZERO, Duration::ZERO)
    }

    /// Whether the limit has passed.
    pub(crate) fn expired(&self) -> bool {
        self.limit.is_some_and(|limit| Instant::now() >= limit)
    }

    fn set(&mut self, first: Duration, repeat: Duration) -> Result<(), Trouble> {
        let setting = libc::itimerspec { it_interval: timespec(repeat), it_value: timespec(first) };
        // SAFETY: the timer is ours until drop; the setting is a valid local.
        let result = unsafe { libc::timer_settime(self.timer, 0, &setting, std::ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(Trouble::last("timer_settime")) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and not used after this.
        unsafe { libc::timer_delete(self.timer) };
        // SAFETY: the mask is the one this thread had; restoring it disturbs nobody else.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.old_mask, std::ptr::null_mut()) };
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_a_sleeping_call_and_says_so() {
        let mut watchdog = Watchdog::new().unwrap();
        watchdog.arm(Duration::from_millis(30)).unwrap();
        assert!(!watchdog.expired());
        let start = Instant::now();
        // SAFETY: polling no descriptors sleeps and touches no memory.
        let result = unsafe { libc::poll(std::ptr::null_mut(), 0, 5_000) };
        assert_eq!(result, -1, "the signal must end the sleep");
        assert!(start.elapsed() < Duration::from_secs(4));
        assert!(watchdog.expired());
        watchdog.disarm().unwrap();
        assert!(!watchdog.expired());
    }

    #[test]
    fn works_where_the_thread_blocks_every_signal() {
        // SAFETY: all zero is a valid sigset_t.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: a valid set to fill.
        unsafe { libc::sigfillset(&mut all) };
        // SAFETY: changes this test's thread only.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut()) };
        let mut watchdog = Watchdog::new().unwrap();
        watchdog.arm(Duration::from_millis(10)).unwrap();
        // SAFETY: polling no descriptors sleeps and touches no memory.
        assert_eq!(unsafe { libc::poll(std::ptr::null_mut(), 0, 5_000) }, -1);
    }
}
