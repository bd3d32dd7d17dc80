//! A place where threads wait for each other.
//!
//! Word: boot's number | phase (16 bits) | arrived (16 bits). Who came in an earlier boot is gone.

use super::word::{LOW, Word, low};
use crate::invariant::{Invariant, SEED, mix_text};
use core::sync::atomic::AtomicU64;

const ARRIVED: u64 = 0xffff;
const PHASE: u64 = 0x1_0000;

/// Lets through when so many have come.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Barrier<W = AtomicU64> {
    word: W,
    count: u64,
}

// SAFETY: sixteen bytes, every pattern is a value, no padding.
unsafe impl Invariant for Barrier {
    const FINGERPRINT: u64 = mix_text(SEED, "Barrier");
}

impl Barrier {
    /// A barrier for `count` threads.
    #[must_use]
    pub const fn new(count: u16) -> Self {
        Self { word: AtomicU64::new(0), count: count as u64 }
    }
}

impl<W: Word> Barrier<W> {
    /// One on a word of another kind, which is 0.
    #[doc(hidden)]
    pub fn on(word: W, count: u16) -> Self {
        Self { word, count: u64::from(count) }
    }

    /// Waits until all have come; true for the one that came last.
    pub fn wait(&self) -> bool {
        let phase = loop {
            let word = self.word.load();
            let generation = self.word.generation();
            let value = if word & !LOW == generation { word & LOW } else { 0 };
            if value & ARRIVED >= self.count.saturating_sub(1) {
                let next = (value & !ARRIVED).wrapping_add(PHASE) & LOW;
                if self.word.replace(word, generation | next) {
                    self.word.wake(u32::MAX);
                    return true;
                }
            } else if self.word.replace(word, generation | (value + 1)) {
                break value & !ARRIVED;
            }
        };
        loop {
            let word = self.word.load();
            if word & LOW & !ARRIVED != phase {
                return false;
            }
            self.word.wait(low(word), None);
        }
    }
}
