//! The mutex that everything in `sync` and the transactions stand on.
//!
//! ```text
//!  63            32 31 30 29             0
//! +----------------+--+--+----------------+
//! | boot generation|W |U |holder (0: free)|
//! +----------------+--+--+----------------+
//! ```
//! # Contract
//! - Stands in an object and excludes all threads of all programs that map it.
//! - A word of an earlier boot is free: its holder died with the power (W, too: its sleepers did).
//! - A freed word keeps the boot's number, so that the first holder of each boot is known (and recovers).
//! - U says that the holder is the first of the boot, and what is guarded not recovered yet. Transactions take it away when
//!   it is ([`RawMutex::set_recovered`]), or leave the word as one of an earlier boot ([`RawMutex::unlock_unrecovered`]); other locks
//!   lose it when they are freed.
//! - W says that somebody may sleep; whoever frees the word then wakes one. Those who only wait for the end of U sleep on the same word:
//!   who ends it wakes all.
//! - Who waits looks again after each [`NAP`]: [`RawMutex::unlock_ahead`] may take W away with the lock. All others wake whom they leave.
//! - A thread that ends while it holds a lock leaves it held until the next boot. Whoever waits is told so ([`Error::HolderEnded`]): what the
//!   lock guards may be half changed, and is recovered at that boot.

use super::word::{LOW, Word, low};
use crate::error::{Error, Result, holder_ended};
use crate::invariant::{Invariant, SEED, mix_text};
use crate::sys::{Platform, Seam, Woken};
use core::sync::atomic::AtomicU64;
use core::time::Duration;

/// A lock without data; see the module.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct RawMutex<W = AtomicU64> {
    word: W,
}

// SAFETY: eight bytes, every pattern is a value (at worst: held by a thread that is not there).
unsafe impl Invariant for RawMutex {
    const FINGERPRINT: u64 = mix_text(SEED, "RawMutex");
    const CELLS: bool = true;
}

const WAITERS: u64 = 1 << 31;
const UNRECOVERED: u64 = 1 << 30;
const HOLDER: u64 = UNRECOVERED - 1;
/// Tries before sleeping: a holder's critical section is shorter than a sleep.
const SPINS: u32 = 64;
/// Longest sleep before looking again: [`RawMutex::unlock_ahead`] may miss somebody.
const NAP: Duration = Duration::from_millis(10);

/// Whether a lock was taken for the first time in this boot: time to recover what it guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First(pub(crate) bool);

impl RawMutex {
    /// A free one.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }
}

impl<W: Word> RawMutex<W> {
    /// A free one on a word of another kind, which is 0.
    #[doc(hidden)]
    pub const fn on(word: W) -> Self {
        Self { word }
    }

    fn is_free(&self, word: u64) -> bool {
        word & HOLDER == 0 || word & !LOW != self.word.generation()
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> bool {
        self.try_take().is_some()
    }

    /// Takes the lock if it is free, and says whether it is the first time in this boot.
    #[inline]
    pub(crate) fn try_take(&self) -> Option<First> {
        let word = self.word.load();
        let generation = self.word.generation();
        let first = word & !LOW != generation;
        let waiters = if first { 0 } else { word & WAITERS };
        let mine = generation | waiters | unrecovered(first) | self.word.me();
        (self.is_free(word) && self.word.replace(word, mine)).then_some(First(first))
    }

    /// Whether nobody holds it, and somebody did in this boot; what was done under it is visible then.
    #[inline]
    pub(crate) fn is_free_in_this_boot(&self) -> bool {
        let word = self.word.load();
        word & HOLDER == 0 && word & !LOW == self.word.generation()
    }

    /// Whether somebody holds it.
    pub(crate) fn is_held(&self) -> bool {
        !self.is_free(self.word.load())
    }

    /// Whether the calling thread holds it.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.word.load() & !(WAITERS | UNRECOVERED) == self.word.generation() | self.word.me()
    }

    /// Takes the lock, sleeping while another thread has it.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the caller holds it: waiting would never end. [`Error::HolderEnded`].
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
        self.lock_slowly(until(limit)).map(drop)
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
            let word = self.word.load();
            let generation = self.word.generation();
            if self.is_free(word) {
                // Whoever slept cannot know whether others do: it takes the word with W.
                let first = word & !LOW != generation;
                if self.word.replace(word, generation | WAITERS | unrecovered(first) | self.word.me()) {
                    return Ok(First(first));
                }
                continue;
            }
            let waiting = word | WAITERS;
            if word != waiting && !self.word.replace(word, waiting) {
                continue;
            }
            self.nap(waiting, left(until)?)?;
        }
    }

    /// Sleeps for at most a nap while the word is `waiting`.
    ///
    /// # Errors
    /// [`Error::HolderEnded`].
    fn nap(&self, waiting: u64, left: Option<Duration>) -> Result<()> {
        let nap = left.map_or(NAP, |left| left.min(NAP));
        match self.word.wait(low(waiting), Some(nap)) {
            Woken::TimedOut => self.holder_ended().map_or(Ok(()), Err),
            Woken::LookAgain => Ok(()),
        }
    }

    /// The error if whoever holds it will never free it.
    #[cold]
    pub(crate) fn holder_ended(&self) -> Option<Error> {
        let word = self.word.load();
        if self.is_free(word) || self.word.lives(word & HOLDER) {
            return None;
        }
        // Freeing it may have been the last thing that the holder did.
        let is_held = self.word.load() & !WAITERS == word & !WAITERS;
        is_held.then(|| holder_ended(&self.word))
    }

    /// Frees the lock as [`RawMutex::unlock`] does, without waiting for the stores before, of which a fence may be waiting for memory: what
    /// the thread does next overlaps with that. The price: somebody who falls asleep in that moment looks again only after [`NAP`].
    #[inline]
    pub fn unlock_ahead(&self) {
        if self.word.load() & WAITERS == 0 {
            self.word.store(self.word.generation());
        } else {
            self.unlock();
        }
    }

    /// Frees the lock; the caller holds it.
    #[inline]
    pub fn unlock(&self) {
        if self.word.swap(self.word.generation()) & WAITERS != 0 {
            self.word.wake(1);
        }
    }

    /// Whether what it guards was recovered in this boot; what was done for that is visible then.
    #[inline]
    pub(crate) fn is_recovered(&self) -> bool {
        let word = self.word.load();
        word & !LOW == self.word.generation() && word & UNRECOVERED == 0
    }

    /// Takes the lock if what it guards was not recovered in this boot, waiting for whoever is recovering it; false when that is done, or
    /// when it is the caller who is at it. Does not wait for a holder after that.
    ///
    /// # Errors
    /// [`Error::HolderEnded`].
    #[doc(hidden)]
    pub fn take_unrecovered(&self) -> Result<bool> {
        loop {
            let word = self.word.load();
            let generation = self.word.generation();
            let in_this_boot = word & !LOW == generation;
            if in_this_boot && (word & UNRECOVERED == 0 || word & HOLDER == self.word.me()) {
                return Ok(false);
            }
            if self.is_free(word) {
                if self.word.replace(word, generation | UNRECOVERED | self.word.me()) {
                    return Ok(true);
                }
                continue;
            }
            let waiting = word | WAITERS;
            if word == waiting || self.word.replace(word, waiting) {
                self.nap(waiting, None)?;
            }
        }
    }

    /// What it guards is recovered now; the caller holds it, and goes on holding it.
    #[doc(hidden)]
    pub fn set_recovered(&self) {
        self.end_unrecovered(self.word.generation() | self.word.me());
    }

    /// Frees the lock after a recovery that failed: the next holder is the first again. The caller holds it.
    #[doc(hidden)]
    pub fn unlock_unrecovered(&self) {
        self.end_unrecovered(0); // no boot has that number
    }

    fn end_unrecovered(&self, word: u64) {
        if self.word.swap(word) & WAITERS != 0 {
            self.word.wake(u32::MAX);
        }
    }
}

/// What the word of a lock says whose holder is the `first` of this boot.
#[inline]
const fn unrecovered(first: bool) -> u64 {
    if first { UNRECOVERED } else { 0 }
}

/// The moment when `limit` will be over; never, if no clock gets there.
pub(crate) fn until(limit: Duration) -> Option<Duration> {
    Platform::monotonic().checked_add(limit)
}

/// What is left until a moment.
pub(crate) fn left(until: Option<Duration>) -> Result<Option<Duration>> {
    match until {
        None => Ok(None),
        Some(until) => until.checked_sub(Platform::monotonic()).ok_or(Error::TimedOut).map(Some),
    }
}
