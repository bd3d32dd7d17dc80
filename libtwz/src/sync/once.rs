//! Something done once in the life of an object.
//!
//! Word: 0 not done; [`DONE`]; else the boot's number and [`RUNNING`] (| [`WAITERS`]). A run of an earlier boot did not end: the
//! next caller runs again, so what is run must be a transaction, or harmless to repeat.

use super::word::{LOW, Word, low};
use crate::error::Result;
use crate::invariant::{Invariant, SEED, mix_text};
use crate::persist;
use core::sync::atomic::AtomicU64;

const RUNNING: u64 = 1;
const DONE: u64 = 2;
const WAITERS: u64 = 4;

/// A flag that something was done, which survives.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Once<W = AtomicU64> {
    word: W,
}

// SAFETY: eight bytes, every pattern is a value.
unsafe impl Invariant for Once {
    const FINGERPRINT: u64 = mix_text(SEED, "Once");
    const CELLS: bool = true;
}

impl Once {
    /// Not done.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }
}

impl<W: Word> Once<W> {
    /// One on a word of another kind, which is 0.
    #[doc(hidden)]
    pub const fn on(word: W) -> Self {
        Self { word }
    }

    /// Whether it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.word.load() & LOW == DONE
    }

    /// Runs `action` unless it was run with success before; others wait. The mark is durable when this returns.
    ///
    /// # Errors
    /// What `action` says; the next caller runs it again.
    pub fn call_once(&self, action: impl FnOnce() -> Result<()>) -> Result<()> {
        loop {
            let word = self.word.load();
            let generation = self.word.generation();
            let running = word & RUNNING != 0 && word & !LOW == generation;
            if word & LOW == DONE {
                return Ok(());
            }
            if !running {
                if self.word.replace(word, generation | RUNNING) {
                    break;
                }
            } else if word & WAITERS != 0 || self.word.replace(word, word | WAITERS) {
                self.word.wait(low(word | WAITERS), None);
            }
        }
        let result = action();
        let new = if result.is_ok() { DONE } else { 0 };
        if self.word.swap(self.word.generation() | new) & WAITERS != 0 {
            self.word.wake(u32::MAX);
        }
        persist::persist(core::ptr::from_ref(&self.word).addr(), 8);
        result
    }
}
