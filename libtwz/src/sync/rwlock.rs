//! A value that many may read or one may change.
//!
//! ```text
//!  63            32 31 30 29              0
//! +----------------+--+--+-----------------+
//! | boot generation|W |X | readers         |
//! +----------------+--+--+-----------------+
//! ```
//! X: a writer holds it. W: somebody may sleep; new readers wait then, too, so that writers come to their turn. A word of an earlier
//! boot is free.

use super::word::{LOW, Word, low};
use crate::error::{Error, Result};
use crate::invariant::{Invariant, SEED, mix_text};
use core::ops::Deref;
use core::sync::atomic::AtomicU64;

const WAITERS: u64 = 1 << 31;
const WRITER: u64 = 1 << 30;
const READERS: u64 = WRITER - 1;

/// A lock for readers and writers, without data.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct RawRwLock<W = AtomicU64> {
    word: W,
}

// SAFETY: eight bytes, every pattern is a value.
unsafe impl Invariant for RawRwLock {
    const FINGERPRINT: u64 = mix_text(SEED, "RawRwLock");
    const CELLS: bool = true;
}

impl RawRwLock {
    /// A free one.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }
}

impl<W: Word> RawRwLock<W> {
    /// A free one on a word of another kind, which is 0.
    #[doc(hidden)]
    pub const fn on(word: W) -> Self {
        Self { word }
    }

    /// The word, and its low half as it counts in this boot.
    fn look(&self) -> (u64, u64) {
        let word = self.word.load();
        (word, if word & !LOW == self.word.generation() { word & LOW } else { 0 })
    }

    /// Takes it as one more reader if that needs no waiting.
    pub fn try_read(&self) -> bool {
        let (word, low) = self.look();
        low & (WRITER | WAITERS) == 0
            && low & READERS != READERS
            && self.word.replace(word, self.word.generation() | (low + 1))
    }

    /// Takes it as a reader. Who holds it as a reader already must not: a writer may be waiting between the two.
    pub fn read(&self) {
        self.take(WRITER, |low| low + 1);
    }

    /// Takes it as the writer if that needs no waiting.
    pub fn try_write(&self) -> bool {
        let (word, low) = self.look();
        low & (WRITER | READERS) == 0 && self.word.replace(word, self.word.generation() | low | WRITER)
    }

    /// Takes it as the writer.
    pub fn write(&self) {
        self.take(WRITER | READERS, |low| low | WRITER);
    }

    /// Takes the word once none of the bits in `busy` is set; sleepers' turn comes before new readers'.
    fn take(&self, busy: u64, mine: impl Fn(u64) -> u64) {
        let mut slept = false;
        loop {
            let (word, value) = self.look();
            let behind_others = busy == WRITER && value & WAITERS != 0 && !slept;
            if value & busy == 0 && !behind_others {
                if self.word.replace(word, self.word.generation() | mine(value)) {
                    return;
                }
                continue;
            }
            let waiting = self.word.generation() | value | WAITERS;
            if word == waiting || self.word.replace(word, waiting) {
                self.word.wait(low(waiting), None);
                slept = true;
            }
        }
    }

    /// Frees a reader's share.
    pub fn unlock_read(&self) {
        loop {
            let (word, value) = self.look();
            if value & READERS == 0 {
                return; // of an earlier boot: free already
            }
            let last = value & READERS == 1;
            let new = if last { 0 } else { value - 1 };
            if self.word.replace(word, self.word.generation() | new) {
                if last && value & WAITERS != 0 {
                    self.word.wake(u32::MAX);
                }
                return;
            }
        }
    }

    /// Frees the writer's hold.
    pub fn unlock_write(&self) {
        if self.word.swap(self.word.generation()) & WAITERS != 0 {
            self.word.wake(u32::MAX);
        }
    }
}

/// A lock for readers and writers, and what it guards.
#[derive(Debug, Default, Invariant)]
#[repr(C)]
pub struct RwLock<T: Invariant> {
    raw: RawRwLock,
    value: T,
}

/// Holding a [`RwLock`] as a reader.
#[derive(Debug)]
pub struct ReadGuard<'a, T: Invariant>(&'a RwLock<T>);

/// Holding a [`RwLock`] as the writer.
#[derive(Debug)]
pub struct WriteGuard<'a, T: Invariant>(&'a RwLock<T>);

impl<T: Invariant> RwLock<T> {
    /// A free lock around `value`.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { raw: RawRwLock::new(), value }
    }

    /// Takes it as a reader; see [`RawRwLock::read`].
    pub fn read(&self) -> ReadGuard<'_, T> {
        self.raw.read();
        ReadGuard(self)
    }

    /// Takes it as the writer.
    pub fn write(&self) -> WriteGuard<'_, T> {
        self.raw.write();
        WriteGuard(self)
    }

    /// Takes it as a reader if that needs no waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`].
    pub fn try_read(&self) -> Result<ReadGuard<'_, T>> {
        if self.raw.try_read() { Ok(ReadGuard(self)) } else { Err(Error::WouldBlock) }
    }

    /// Takes it as the writer if that needs no waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`].
    pub fn try_write(&self) -> Result<WriteGuard<'_, T>> {
        if self.raw.try_write() { Ok(WriteGuard(self)) } else { Err(Error::WouldBlock) }
    }
}

impl<T: Invariant> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Invariant> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Invariant> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        self.0.raw.unlock_read();
    }
}

impl<T: Invariant> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        self.0.raw.unlock_write();
    }
}
