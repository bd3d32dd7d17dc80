//! Waiting for many things at once: sources ring their [`Bell`], which sets a bit of an [`EventSet`] that somebody waits on.

use crate::PCell;
use crate::error::{Error, Result};
use crate::invariant::{Invariant, SEED, mix_text};
use crate::ptr::InvPtr;
use crate::sync::{Word, left, until};
use crate::sys::Woken;
use crate::tx::Tx;
use core::sync::atomic::AtomicU64;
use core::time::Duration;

/// Sources that one set can have.
pub const EVENTS_MAX: u32 = 31;
/// Somebody may sleep on the word.
const SLEEPING: u64 = 1 << 31;

/// Up to [`EVENTS_MAX`] events, each of which happened or did not since it was last taken. Events of an earlier boot are gone.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct EventSet<W = AtomicU64> {
    /// Boot's number | SLEEPING | a bit per event.
    word: W,
}

// SAFETY: eight bytes, every pattern is a value.
unsafe impl Invariant for EventSet {
    const FINGERPRINT: u64 = mix_text(SEED, "EventSet");
    const CELLS: bool = true;
}

impl EventSet {
    /// Nothing happened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }
}

impl<W: Word> EventSet<W> {
    /// A set on a word of another kind, which is 0.
    #[doc(hidden)]
    pub const fn on(word: W) -> Self {
        Self { word }
    }

    /// The word, and its low half as it counts in this boot.
    fn look(&self) -> (u64, u64) {
        let word = self.word.load();
        let current = word & !0xffff_ffff == self.word.generation();
        (word, if current { word & 0xffff_ffff } else { 0 })
    }

    /// Says that `event` happened; numbers past the last are ignored.
    pub fn signal(&self, event: u32) {
        if event >= EVENTS_MAX {
            return;
        }
        loop {
            let (word, low) = self.look();
            let new = self.word.generation() | low & !SLEEPING | 1 << event;
            if self.word.replace(word, new) {
                if low & SLEEPING != 0 {
                    self.word.wake(u32::MAX);
                }
                return;
            }
        }
    }

    /// Takes those of `wanted` (bits) that happened; 0 for none.
    pub fn take(&self, wanted: u32) -> u32 {
        let wanted = u64::from(wanted) & !SLEEPING;
        loop {
            let (word, low) = self.look();
            #[allow(clippy::cast_possible_truncation, reason = "31 bits")]
            let found = (low & wanted) as u32;
            if found == 0 || self.word.replace(word, self.word.generation() | low & !wanted) {
                return found;
            }
        }
    }

    /// Waits until some of `wanted` (bits) happened, and takes them.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn wait(&self, wanted: u32, limit: Option<Duration>) -> Result<u32> {
        let until = limit.and_then(until);
        loop {
            let found = self.take(wanted);
            if found != 0 {
                return Ok(found);
            }
            let left = left(until)?;
            let (word, low) = self.look();
            if low & u64::from(wanted) & !SLEEPING != 0 {
                continue;
            }
            let sleeping = self.word.generation() | low | SLEEPING;
            if word != sleeping && !self.word.replace(word, sleeping) {
                continue;
            }
            #[allow(clippy::cast_possible_truncation, reason = "the low half is what is slept on")]
            if self.word.wait(sleeping as u32, left) == Woken::TimedOut && self.take(wanted) == 0 {
                return Err(Error::TimedOut);
            }
        }
    }
}

/// Leads from a source to the event that it signals.
///
/// It rings when something comes, not while something is there: connect it, then look; and after each ring take all that is there, with calls
/// that do not wait (`try_read`, `try_take`).
#[derive(Debug, Default, Invariant)]
#[repr(C)]
pub struct Bell {
    set: InvPtr<EventSet>,
    event: PCell<u32>,
    reserved: PCell<u32>,
}

impl Bell {
    /// A bell that rings nowhere.
    #[must_use]
    pub const fn new() -> Self {
        Self { set: InvPtr::null(), event: PCell::new(0), reserved: PCell::new(0) }
    }

    /// Makes it signal `event` of `set`, as a part of `tx`.
    ///
    /// # Errors
    /// As [`Tx::point`].
    pub fn connect(&self, tx: &Tx, set: &EventSet, event: u32) -> Result<()> {
        tx.point(&self.set, Some(set))?;
        tx.set(&self.event, event)
    }

    /// Signals the event, if there is one; a bell that leads astray rings nowhere.
    pub fn ring(&self) {
        if let Ok(Some(set)) = self.set.get() {
            set.signal(self.event.get());
        }
    }
}
