//! The turns of a queue's places: who fills and who empties which, without a lock, on words of any kind.
//!
//! ```text
//! submit:  claim a turn (compare-and-swap of `tail`) -> fill the place -> publish: sequence = turn + 1 -> wake
//! take:    place's sequence is head + 1?  -> claim it (`head`) -> copy -> sequence = turn + N
//! ```
//! # Contract
//! - A place is filled by whoever has its turn, and read by one who took that turn, after it was published. Publishing is a release, looking
//!   for it an acquire; the counters themselves order nothing.

use super::word::{Word, low};
use crate::error::{Error, Result, damaged};
use core::sync::atomic::{AtomicU64, Ordering};

/// A [`Word`] that is also a counter with orderings to choose.
pub trait Counter: Word {
    /// Loads it.
    fn get(&self, order: Ordering) -> u64;
    /// Stores `value`.
    fn set(&self, value: u64, order: Ordering);
    /// Replaces `current` by `new`, ordering nothing; what is there instead if it is something else.
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
        self.compare_exchange(current, new, Ordering::Relaxed, Ordering::Relaxed)
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
    /// Of each place: the turn that may fill it, or one more: it is filled.
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
        let mut turn = self.tail.get(Ordering::Relaxed);
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
            } else if sequence.wrapping_sub(turn).cast_signed() < 0 {
                return Err(Error::WouldBlock);
            } else {
                // Whoever published it moved the tail before, and the sequence was read with Acquire.
                let now = self.tail.get(Ordering::Relaxed);
                if now == turn {
                    return Err(damaged(&self.sequences[at], "a sequence that the queue's tail has come to"));
                }
                turn = now;
            }
        }
        self.arrived.count(Ordering::Release);
        self.arrived.wake(1);
        Ok(())
    }

    /// Empties the oldest full place, whose number `read` gets.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when there is none.
    pub fn try_take<R>(&self, read: impl FnOnce(usize) -> R) -> Result<R> {
        loop {
            let turn = self.head.get(Ordering::Relaxed);
            let at = self.index(turn);
            if self.sequences[at].get(Ordering::Acquire) != turn.wrapping_add(1) {
                if self.head.get(Ordering::Relaxed) == turn {
                    return Err(Error::WouldBlock);
                }
                continue;
            }
            if self.head.claim(turn, turn.wrapping_add(1)).is_ok() {
                let entry = read(at);
                self.sequences[at].set(turn.wrapping_add(self.len()), Ordering::Release);
                return Ok(entry);
            }
        }
    }

    /// [`Turns::try_take`], waiting for an entry.
    pub fn take<R>(&self, mut read: impl FnMut(usize) -> R) -> R {
        loop {
            let seen = self.arrived.get(Ordering::Acquire);
            if let Ok(entry) = self.try_take(&mut read) {
                return entry;
            }
            self.arrived.wait(low(seen), None);
        }
    }
}
