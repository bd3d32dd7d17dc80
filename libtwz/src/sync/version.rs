//! Reading without a lock what one writer at a time changes, for readers that may not write.
//!
//! The word's low bit is set while a writer is at work; a writer of an earlier boot is not.

use super::word::{LOW, Word};
use crate::error::{Error, Result};
use crate::invariant::{Invariant, SEED, mix_text};
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// Counts changes. Its user excludes other writers.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Version<W = AtomicU64> {
    word: W,
}

// SAFETY: eight bytes, every pattern is a value.
unsafe impl Invariant for Version {
    const FINGERPRINT: u64 = mix_text(SEED, "Version");
    const CELLS: bool = true;
}

/// Tries before a writer that never ends is reported.
const PATIENCE: u32 = 1_000_000;

impl Version {
    /// Nothing changed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }
}

impl<W: Word> Version<W> {
    /// One on a word of another kind, which is 0.
    #[doc(hidden)]
    pub const fn on(word: W) -> Self {
        Self { word }
    }

    /// Runs `read` until no writer was at work meanwhile.
    ///
    /// # Errors
    /// What `read` says when nobody was writing; [`Error::TimedOut`] when a writer never ends.
    pub fn read<R>(&self, read: impl Fn() -> Result<R>) -> Result<R> {
        for _ in 0..PATIENCE {
            let before = self.word.load();
            let writing = before & 1 != 0 && before & !LOW == self.word.generation();
            if !writing {
                let result = read();
                fence(Ordering::Acquire);
                if self.word.load() == before {
                    return result;
                }
            }
            core::hint::spin_loop();
        }
        Err(Error::TimedOut)
    }

    /// Runs `write`, during which readers wait.
    pub fn write<R>(&self, write: impl FnOnce() -> R) -> R {
        let before = self.word.load() & LOW & !1;
        self.word.swap(self.word.generation() | before | 1);
        fence(Ordering::SeqCst);
        let result = write();
        self.word.swap(self.word.generation() | (before.wrapping_add(2) & LOW));
        result
    }
}
