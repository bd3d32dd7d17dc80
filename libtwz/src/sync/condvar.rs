//! Waiting for a condition that a mutex guards.

use super::mutex::MutexGuard;
use super::raw::RawMutex;
use super::word::{LOW, Word, low};
use crate::error::{Error, Result};
use crate::invariant::{Invariant, SEED, mix_text};
use crate::sys::Woken;
use core::sync::atomic::AtomicU64;
use core::time::Duration;

/// A place to wait at. Its word counts the wake-ups, so that one between unlocking and sleeping is not lost.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Condvar<W = AtomicU64> {
    word: W,
}

// SAFETY: eight bytes, every pattern is a value.
unsafe impl Invariant for Condvar {
    const FINGERPRINT: u64 = mix_text(SEED, "Condvar");
    const CELLS: bool = true;
}

impl Condvar {
    /// A place where nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Frees the lock, waits for a wake-up and takes it again. Wakes up for no reason, too: look at the condition in a loop.
    ///
    /// # Errors
    /// [`Error::HolderEnded`] when a thread ended that had the lock meanwhile: what it guards may be half changed. It is held then, too.
    pub fn wait<T: Invariant>(&self, guard: &MutexGuard<'_, T>) -> Result<()> {
        self.wait_on(guard.raw(), None)
    }

    /// As [`Condvar::wait`], for at most `limit`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], and as [`Condvar::wait`]; the lock is held then, too.
    pub fn wait_for<T: Invariant>(&self, guard: &MutexGuard<'_, T>, limit: Duration) -> Result<()> {
        self.wait_on(guard.raw(), Some(limit))
    }
}

impl<W: Word> Condvar<W> {
    /// One on a word of another kind.
    #[doc(hidden)]
    pub const fn on(word: W) -> Self {
        Self { word }
    }

    /// [`Condvar::wait`] with a lock that the caller holds.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::HolderEnded`], both with the lock held.
    pub fn wait_on<L: Word>(&self, lock: &RawMutex<L>, limit: Option<Duration>) -> Result<()> {
        let seen = self.word.load(); // with the lock held: what wakes us comes after
        lock.unlock();
        let woken = self.word.wait(low(seen), limit);
        lock.lock_again()?;
        if woken == Woken::TimedOut && self.word.load() == seen { Err(Error::TimedOut) } else { Ok(()) }
    }

    fn count_up(&self) {
        loop {
            let word = self.word.load();
            if self.word.replace(word, word.wrapping_add(1) & LOW) {
                return;
            }
        }
    }

    /// Wakes one of those who wait.
    pub fn notify_one(&self) {
        self.count_up();
        self.word.wake(1);
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.count_up();
        self.word.wake(u32::MAX);
    }
}
