//! The lock word that everything in `sync` and the transactions stand on.
//!
//! ```text
//!  63            32 31 30                0
//! +----------------+--+-------------------+
//! | boot generation|W | holder (0: free)  |
//! +----------------+--+-------------------+
//! ```
//! # Contract
//! - Stands in an object and excludes all threads of all programs that map it.
//! - A word of an earlier boot is free: its holder died with the power (W, too: its sleepers did).
//! - A freed word keeps the boot's number, so that the first holder of each boot is known (and recovers).
//! - W says that somebody may sleep on the low half; whoever frees the word then wakes one.

use crate::error::{Error, Result};
use crate::invariant::{Invariant, SEED, mix_text};
use crate::sys::{Platform, Seam, Woken};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

/// A lock without data; see the module.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct RawMutex {
    word: AtomicU64,
}

// SAFETY: eight bytes, every pattern is a value (at worst: held by a thread that is not there).
unsafe impl Invariant for RawMutex {
    const FINGERPRINT: u64 = mix_text(SEED, "RawMutex");
}

const WAITERS: u64 = 1 << 31;
const HOLDER: u64 = WAITERS - 1;
const LOW: u64 = 0xffff_ffff;
/// Tries before sleeping: a holder's critical section is shorter than a sleep.
const SPINS: u32 = 64;

fn generation() -> u64 {
    u64::from(Platform::boot_generation()) << 32
}

fn me() -> u64 {
    u64::from(Platform::thread_id()) & HOLDER
}

/// Whether a lock was taken for the first time in this boot: time to recover what it guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First(pub(crate) bool);

impl RawMutex {
    /// A free one.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// The half that is slept on: little-endian, so it comes first.
    fn low(&self) -> &AtomicU32 {
        // SAFETY: the first half of our own word, aligned to 8.
        unsafe { &*core::ptr::from_ref(&self.word).cast::<AtomicU32>() }
    }

    fn is_free(word: u64) -> bool {
        word & HOLDER == 0 || word & !LOW != generation()
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> bool {
        self.try_take().is_some()
    }

    /// Takes the lock if it is free, and says whether it is the first time in this boot.
    #[inline]
    pub(crate) fn try_take(&self) -> Option<First> {
        let generation = generation();
        let word = self.word.load(Ordering::Relaxed);
        let first = word & !LOW != generation;
        let waiters = if first { 0 } else { word & WAITERS };
        let mine = generation | waiters | me();
        (Self::is_free(word)
            && self.word.compare_exchange(word, mine, Ordering::Acquire, Ordering::Relaxed).is_ok())
        .then_some(First(first))
    }

    /// Whether the calling thread holds it.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word & !WAITERS == generation() | me()
    }

    /// Takes the lock, sleeping while another thread has it.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the caller holds it: waiting would never end.
    #[inline]
    pub fn lock(&self) -> Result<()> {
        self.take().map(drop)
    }

    /// As [`RawMutex::lock`], and says whether it is the first time in this boot.
    #[inline]
    pub(crate) fn take(&self) -> Result<First> {
        match self.try_take() {
            Some(first) => Ok(first),
            None => self.lock_slowly(None),
        }
    }

    /// As [`RawMutex::lock`], for at most `limit`.
    ///
    /// # Errors
    /// As [`RawMutex::lock`]; [`Error::TimedOut`].
    pub fn lock_for(&self, limit: Duration) -> Result<()> {
        if self.try_lock() {
            return Ok(());
        }
        self.lock_slowly(Some(Platform::monotonic() + limit)).map(drop)
    }

    #[cold]
    fn lock_slowly(&self, until: Option<Duration>) -> Result<First> {
        if self.is_mine() {
            return Err(Error::WouldBlock);
        }
        for _ in 0..SPINS {
            if let Some(first) = self.try_take() {
                return Ok(first);
            }
            core::hint::spin_loop();
        }
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if Self::is_free(word) {
                // Whoever slept cannot know whether others do: it takes the word with W.
                let mine = generation() | WAITERS | me();
                if self.word.compare_exchange(word, mine, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Ok(First(word & !LOW != generation()));
                }
                continue;
            }
            let waiting = word | WAITERS;
            if word != waiting
                && self.word.compare_exchange(word, waiting, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            let left = match until {
                None => None,
                Some(until) => Some(until.checked_sub(Platform::monotonic()).ok_or(Error::TimedOut)?),
            };
            #[allow(clippy::cast_possible_truncation, reason = "the low half is what is slept on")]
            let expected = waiting as u32;
            if Platform::wait(self.low(), expected, left) == Woken::TimedOut {
                return Err(Error::TimedOut);
            }
        }
    }

    /// Frees the lock; the caller holds it.
    #[inline]
    pub fn unlock(&self) {
        if self.word.swap(generation(), Ordering::Release) & WAITERS != 0 {
            Platform::wake(self.low(), 1);
        }
    }
}
