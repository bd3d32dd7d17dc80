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
//!   it is ([`RawMutex::set_recovered`]), or leave the word as of a thread that has ended ([`RawMutex::unlock_unrecovered`]); other locks
//!   lose it when they are freed.
//! - W says that somebody may sleep; whoever frees the word then wakes one. Those who only wait for the end of U sleep on the same word:
//!   who ends it wakes all.
//! - Who waits looks again after each [`NAP`]: [`RawMutex::unlock_ahead`] may take W away with the lock. All others wake whom they leave.
//! - A thread that ends while it holds a lock leaves it held, and what it guards half changed. Transactions take it from that thread, with U, and
//!   recover what it guards ([`Taken::FromEnded`]). Of other locks it stays until the next boot, and whoever waits is told so
//!   ([`Error::HolderEnded`]).

use super::word::{LOW, Word, low};
use crate::error::{Error, Result, holder_ended};
use crate::invariant::{Invariant, SEED, mix_text};
use crate::simulate;
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
/// The number of no thread.
const NOBODY: u64 = HOLDER;
/// Tries before sleeping: a holder's critical section is shorter than a sleep.
const SPINS: u32 = 64;
/// Longest sleep before looking again: [`RawMutex::unlock_ahead`] may miss somebody.
const NAP: Duration = Duration::from_millis(10);

/// Whom a lock was taken from: what is to be done about what it guards.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Whoever had it before freed it in this boot.
    Again,
    /// Nobody had it in this boot: a power failure may have cut off a change.
    First,
    /// A thread that has ended, before what it guards was recovered in this boot.
    Unrecovered,
    /// A thread that has ended, and had it in this boot: a change may be cut off, in memory that is as that thread left it.
    FromEnded,
}

impl Taken {
    const fn first(first: bool) -> Self {
        if first { Self::First } else { Self::Again }
    }
}

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

    /// Takes the lock if it is free.
    #[inline]
    pub(crate) fn try_take(&self) -> Option<Taken> {
        let word = self.word.load();
        let generation = self.word.generation();
        let first = word & !LOW != generation;
        let waiters = if first { 0 } else { word & WAITERS };
        let mine = generation | waiters | unrecovered(first) | self.word.me();
        (self.is_free(word) && self.word.replace(word, mine)).then_some(Taken::first(first))
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

    /// Whether a thread holds it that has not ended.
    pub(crate) fn is_held_by_one_that_lives(&self) -> bool {
        let word = self.word.load();
        !self.is_free(word) && !self.is_left(word)
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
        self.take(None).map(drop)
    }

    #[inline]
    fn take(&self, until: Option<Duration>) -> Result<Taken> {
        match self.try_take() {
            Some(taken) => Ok(taken),
            None => self.lock_slowly(until),
        }
    }

    /// Takes the lock after having waited for something else. It is held in any case.
    ///
    /// # Errors
    /// [`Error::HolderEnded`] when it was taken from a thread that has ended: what is guarded may be half changed.
    pub(crate) fn lock_again(&self) -> Result<()> {
        match self.take_from_anyone(None)? {
            Taken::Again | Taken::First => Ok(()),
            Taken::Unrecovered | Taken::FromEnded => Err(holder_ended(&self.word)),
        }
    }

    /// Takes the lock, waiting until a moment, also from a thread that has ended: for whoever recovers then what is guarded, or guards what is whole
    /// after each store.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the caller holds it; [`Error::TimedOut`].
    #[inline]
    pub(crate) fn take_from_anyone(&self, until: Option<Duration>) -> Result<Taken> {
        loop {
            match self.take(until) {
                Err(Error::HolderEnded { .. }) => {
                    if let Some(taken) = self.take_over() {
                        return Ok(taken);
                    }
                }
                other => return other,
            }
        }
    }

    /// Takes the lock from a thread that has ended.
    #[cold]
    pub(crate) fn take_over(&self) -> Option<Taken> {
        let word = self.word.load();
        if !self.is_left(word) {
            return None;
        }
        // Its number will not come again soon, and nobody else changes the rest of a held word: what is replaced is what it left.
        let mine = self.word.generation() | word & WAITERS | UNRECOVERED | self.word.me();
        let taken = if word & UNRECOVERED == 0 { Taken::FromEnded } else { Taken::Unrecovered };
        self.word.replace(word, mine).then_some(taken)
    }

    /// Whether a thread has it that has ended. Of the calling thread's own locks and of free ones this asks nobody.
    fn is_left(&self, word: u64) -> bool {
        let holder = word & HOLDER;
        !self.is_free(word) && holder != self.word.me() && !self.word.lives(holder)
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
    fn lock_slowly(&self, until: Option<Duration>) -> Result<Taken> {
        if self.is_mine() {
            return Err(Error::WouldBlock);
        }
        for _ in 0..SPINS {
            if let Some(taken) = self.try_take() {
                return Ok(taken);
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
                    return Ok(Taken::first(first));
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
    fn holder_ended(&self) -> Option<Error> {
        let word = self.word.load();
        if !self.is_left(word) {
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
        if simulate::has_ended() {
            return;
        }
        if self.word.swap(self.word.generation()) & WAITERS != 0 {
            self.word.wake(1);
        }
    }

    /// Whether what it guards was recovered in this boot, and no thread has ended since in the middle of a change; what was done for that is
    /// visible then.
    #[inline]
    pub(crate) fn is_recovered(&self) -> bool {
        let word = self.word.load();
        word & !LOW == self.word.generation() && word & UNRECOVERED == 0 && !self.is_left(word)
    }

    /// Takes the lock if what it guards is not recovered, waiting for whoever is recovering it; [`Taken::Again`] when that is done, or
    /// when it is the caller who is at it: it is not taken then. Does not wait for a holder after that.
    #[doc(hidden)]
    pub fn take_unrecovered(&self) -> Taken {
        loop {
            let word = self.word.load();
            let generation = self.word.generation();
            let in_this_boot = word & !LOW == generation;
            if self.is_left(word) {
                match self.take_over() {
                    Some(taken) => return taken,
                    None => continue,
                }
            }
            if in_this_boot && (word & UNRECOVERED == 0 || word & HOLDER == self.word.me()) {
                return Taken::Again;
            }
            if self.is_free(word) {
                if self.word.replace(word, generation | UNRECOVERED | self.word.me()) {
                    return Taken::First;
                }
                continue;
            }
            let waiting = word | WAITERS;
            if word == waiting || self.word.replace(word, waiting) {
                let _ = self.nap(waiting, None); // one that has ended is seen above
            }
        }
    }

    /// What it guards is recovered now; the caller holds it, and goes on holding it.
    #[doc(hidden)]
    pub fn set_recovered(&self) {
        self.end_unrecovered(self.word.generation() | self.word.me());
    }

    /// Leaves the lock after a recovery that failed as a thread does that ends at that: whoever comes next takes it over ([`Taken::Unrecovered`]). The
    /// caller holds it.
    #[doc(hidden)]
    pub fn unlock_unrecovered(&self) {
        self.end_unrecovered(self.word.generation() | UNRECOVERED | NOBODY);
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
