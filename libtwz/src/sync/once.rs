//! Something done once in the life of an object.
//!
//! ```text
//! word: boot's number << 32 | RUNNING, DONE, WAITERS
//!
//!   0 --replace--> RUNNING --Ok--> RUNNING | DONE --flush, fence--> DONE
//!                     `--Err or panic--> 0
//! ```
//! # Contract
//! - **D1** who is told that it was done is told of something durable: `RUNNING | DONE` of this boot is waited for. Of an earlier boot it counts as
//!   done: it survived.
//! - A run of an earlier boot that did not come to `DONE` did not end: the next caller runs again, so what is run must be a transaction, or
//!   harmless to repeat.

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

    /// Whether it was done, durably.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let word = self.word.load();
        word & DONE != 0 && !self.is_running(word)
    }

    fn is_running(&self, word: u64) -> bool {
        word & RUNNING != 0 && word & !LOW == self.word.generation()
    }

    /// Runs `action` unless it was run with success before; others wait. The mark is durable when this returns.
    ///
    /// # Errors
    /// What `action` says; the next caller runs it again, as it does after a panic.
    pub fn call_once(&self, action: impl FnOnce() -> Result<()>) -> Result<()> {
        loop {
            let word = self.word.load();
            if self.is_running(word) {
                if word & WAITERS != 0 || self.word.replace(word, word | WAITERS) {
                    self.word.wait(low(word | WAITERS), None);
                }
            } else if word & DONE != 0 {
                return Ok(());
            } else if self.word.replace(word, self.word.generation() | RUNNING) {
                break;
            }
        }
        let run = Run { once: self, end: 0 };
        action()?;
        run.succeeded();
        Ok(())
    }
}

/// A run of the action. What it ends with is stored when it is dropped: 0 unless the action has succeeded.
struct Run<'a, W: Word> {
    once: &'a Once<W>,
    end: u64,
}

impl<W: Word> Run<'_, W> {
    /// Makes the mark durable, and only then what others go by (**D1**).
    fn succeeded(mut self) {
        let word = &self.once.word;
        loop {
            let now = word.load();
            // Whoever waits goes on doing so.
            if word.replace(now, now | DONE) {
                break;
            }
        }
        persist::persist(core::ptr::from_ref(word).addr(), 8); // commit point
        self.end = DONE;
    }
}

impl<W: Word> Drop for Run<'_, W> {
    fn drop(&mut self) {
        let word = &self.once.word;
        if word.swap(word.generation() | self.end) & WAITERS != 0 {
            word.wake(u32::MAX);
        }
    }
}
