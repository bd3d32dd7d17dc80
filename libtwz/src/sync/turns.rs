//! The turns of a queue's places: who fills and who empties which, without a lock, on words of any kind.
//!
//! ```text
//! submit:  claim a turn (compare-and-swap of `tail`) -> fill the place -> publish: sequence = turn + 1 -> wake
//! take:    place's sequence is head + 1?  -> claim it (`head`) -> copy -> sequence = turn + N
//! ```
//! # Contract
//! - A place is filled by whoever has its turn, and read by one who took that turn, after it was published. Publishing is a release, looking
//!   for it an acquire.
//! - **Q1** claims order what was done before them, so that whoever sees a counter sees at least what its claims had seen. At turn `t` of `tail` the
//!   place's sequence is `t` (free), `t + 1 - N` (full) or `t - N` (being filled); at turn `t` of `head` it is `t + 1` (full), `t` (empty, or being
//!   filled) or `t + 1 - N` (being emptied). Anything else is damage, and is not waited for.

use super::raw::left;
use super::word::{Word, low};
use crate::error::{Error, Result, damaged};
use crate::sys::Woken;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// A [`Word`] that is also a counter with orderings to choose.
pub trait Counter: Word {
    /// Loads it.
    fn get(&self, order: Ordering) -> u64;
    /// Stores `value`.
    fn set(&self, value: u64, order: Ordering);
    /// Replaces `current` by `new` (acquire and release); what is there instead if it is something else.
    ///
    /// # Errors
    /// The value that it has.
    fn claim(&self, current: u64, new: u64) -> core::result::Result<u64, u64>;
    /// Adds one.
    fn count(&self, order: Ordering);
}

impl Counter for AtomicU64 {
    #[inline]
    fn get(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn set(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn claim(&self, current: u64, new: u64) -> core::result::Result<u64, u64> {
        self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline]
    fn count(&self, order: Ordering) {
        self.fetch_add(1, order);
    }
}

/// The counters of a queue. As many sequences as places, a power of two.
#[derive(Debug)]
pub struct Turns<'a, C> {
    /// Turns ever claimed to fill.
    pub tail: &'a C,
    /// Turns ever claimed to empty.
    pub head: &'a C,
    /// Raised with each entry; takers sleep on it.
    pub arrived: &'a C,
    /// Of each place: the turn that may fill it, or one more: it is filled. At least two.
    pub sequences: &'a [C],
}

impl<C: Counter> Turns<'_, C> {
    fn len(&self) -> u64 {
        self.sequences.len() as u64
    }

    fn index(&self, turn: u64) -> usize {
        usize::try_from(turn % self.len().max(1)).unwrap_or(0)
    }

    /// Fills the place with the number that `fill` gets.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when all are full; [`Error::Damaged`].
    pub fn submit(&self, fill: impl FnOnce(usize)) -> Result<()> {
        let mut turn = self.tail.get(Ordering::Acquire);
        loop {
            let at = self.index(turn);
            let sequence = self.sequences[at].get(Ordering::Acquire);
            if sequence == turn {
                match self.tail.claim(turn, turn.wrapping_add(1)) {
                    Ok(_) => {
                        fill(at);
                        self.sequences[at].set(turn.wrapping_add(1), Ordering::Release);
                        break;
                    }
                    Err(now) => turn = now,
                }
                continue;
            }
            // Whoever published it moved the tail before, and the sequence was read with Acquire.
            let now = self.tail.get(Ordering::Acquire);
            if now != turn {
                turn = now;
                continue;
            }
            let behind = turn.wrapping_sub(sequence);
            if behind == self.len() || behind.wrapping_add(1) == self.len() {
                return Err(Error::WouldBlock);
            }
            return Err(damaged(&self.sequences[at], "a sequence that the queue's tail has come to")); // Q1
        }
        // Both: whoever counted before is seen below, and whoever counts after sees this turn published.
        self.arrived.count(Ordering::AcqRel);
        // Those with later turns may have published before, and woken takers for nothing, who stood before this one.
        let is_last = self.tail.get(Ordering::Acquire) == turn.wrapping_add(1);
        self.arrived.wake(if is_last { 1 } else { u32::MAX });
        Ok(())
    }

    /// Empties the oldest full place, whose number `read` gets.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when there is none; [`Error::Damaged`].
    pub fn try_take<R>(&self, read: impl FnOnce(usize) -> R) -> Result<R> {
        loop {
            let turn = self.head.get(Ordering::Acquire);
            let at = self.index(turn);
            let sequence = self.sequences[at].get(Ordering::Acquire);
            if sequence != turn.wrapping_add(1) {
                if self.head.get(Ordering::Acquire) != turn {
                    continue;
                }
                let behind = turn.wrapping_add(1).wrapping_sub(sequence);
                if behind == 1 || behind == self.len() {
                    return Err(Error::WouldBlock);
                }
                return Err(damaged(&self.sequences[at], "a sequence that the queue's head has come to")); // Q1
            }
            if self.head.claim(turn, turn.wrapping_add(1)).is_ok() {
                let entry = read(at);
                self.sequences[at].set(turn.wrapping_add(self.len()), Ordering::Release);
                return Ok(entry);
            }
        }
    }

    /// [`Turns::try_take`], waiting for an entry until a moment.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::Damaged`].
    pub fn take<R>(&self, mut read: impl FnMut(usize) -> R, until: Option<Duration>) -> Result<R> {
        loop {
            let seen = self.arrived.get(Ordering::Acquire);
            match self.try_take(&mut read) {
                Err(Error::WouldBlock) => {}
                result => return result,
            }
            if self.arrived.wait(low(seen), left(until)?) == Woken::TimedOut {
                // The last one may have come with the end of the time.
                return match self.try_take(&mut read) {
                    Err(Error::WouldBlock) => Err(Error::TimedOut),
                    result => result,
                };
            }
        }
    }
}
