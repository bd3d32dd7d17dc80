//! Reading without a lock what one writer at a time changes, for readers that may not write.
//!
//! The word's low bit is set while a writer is at work; a writer of an earlier boot is not.

use super::word::{LOW, Word};
use crate::error::{Error, Result};
use crate::invariant::{Invariant, SEED, mix_text};
use crate::sys::{Platform, Seam};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::time::Duration;

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

/// Tries before others are let run.
const SPINS: u32 = 256;
/// How long a writer is waited for, before it is taken for one that never ends.
const PATIENCE: Duration = Duration::from_secs(5);

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
        self.read_past(read, || ())
    }

    /// [`Version::read`] that runs `look_after` now and then while a writer seems to be at work: it may have ended in the middle.
    pub(crate) fn read_past<R>(&self, read: impl Fn() -> Result<R>, look_after: impl Fn()) -> Result<R> {
        let mut until = None;
        loop {
            for _ in 0..SPINS {
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
            look_after();
            // The writer may be waiting for this processor.
            Platform::yield_now();
            let now = Platform::monotonic();
            if now > *until.get_or_insert(now + PATIENCE) {
                return Err(Error::TimedOut);
            }
        }
    }

    /// Runs `write`, during which readers wait.
    pub fn write<R>(&self, write: impl FnOnce() -> R) -> R {
        let before = self.begin();
        let result = write();
        self.end(before);
        result
    }

    /// Has readers wait; [`Version::end`] with what this returns must follow.
    pub(crate) fn begin(&self) -> u64 {
        let before = self.word.load() & LOW & !1;
        self.word.swap(self.word.generation() | before | 1);
        fence(Ordering::SeqCst);
        before
    }

    /// Ends what [`Version::begin`] began.
    pub(crate) fn end(&self, before: u64) {
        self.word.swap(self.word.generation() | (before.wrapping_add(2) & LOW));
    }
}
