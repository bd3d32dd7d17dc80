//! A queue between programs: many submit, one takes, and completions come back the same way.
//!
//! ```text
//! submit:  claim a turn (compare-and-swap of `tail`) -> fill the place -> publish: sequence = turn + 1 -> ring
//! take:    place's sequence is head + 1?  -> copy -> sequence = head + N -> head + 1
//! ```
//! # Contract
//! - Lock-free; an entry is taken by exactly one taker, in the order of turns.
//! - Entries live as long as the boot: [`Queue::start_boot`] empties a queue of an earlier one. What must survive goes into a
//!   [`crate::sync::Channel`].

use super::event::Bell;
use crate::error::{Error, Result, damaged};
use crate::invariant::Invariant;
use crate::sync::Word;
use crate::sys::{Platform, Seam};
use crate::{InvPtr, PCell};
use core::sync::atomic::{AtomicU64, Ordering};

/// A queue of at most `N` entries; `N` is a power of two.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Queue<T: Invariant + Copy, const N: usize> {
    /// Number of the boot that the counters belong to.
    boot: AtomicU64,
    tail: AtomicU64,
    head: AtomicU64,
    /// Raised with each entry; takers sleep on it.
    arrived: AtomicU64,
    bell: InvPtr<Bell>,
    sequences: [AtomicU64; N],
    places: [PCell<T>; N],
}

impl<T: Invariant + Copy, const N: usize> Queue<T, N> {
    /// An empty queue; `blank` fills its places.
    #[must_use]
    pub fn new(blank: T) -> Self {
        const { assert!(N.is_power_of_two(), "a queue's length is a power of two") };
        Self {
            boot: AtomicU64::new(u64::from(Platform::boot_generation())),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            bell: InvPtr::null(),
            sequences: core::array::from_fn(|i| AtomicU64::new(i as u64)),
            places: core::array::from_fn(|_| PCell::new(blank)),
        }
    }

    /// What is rung when an entry arrives; set it with [`crate::Tx::point`].
    #[must_use]
    pub const fn bell(&self) -> &InvPtr<Bell> {
        &self.bell
    }

    /// Empties a queue that an earlier boot left; by whoever opens it first, before others use it.
    pub fn start_boot(&self) {
        let now = u64::from(Platform::boot_generation());
        if self.boot.load(Ordering::Acquire) != now {
            for (i, sequence) in self.sequences.iter().enumerate() {
                sequence.store(i as u64, Ordering::Relaxed);
            }
            self.head.store(0, Ordering::Relaxed);
            self.tail.store(0, Ordering::Relaxed);
            self.boot.store(now, Ordering::Release);
        }
    }

    fn index(turn: u64) -> usize {
        usize::try_from(turn % N as u64).unwrap_or(0)
    }

    /// Puts an entry in.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the queue is full; [`Error::Damaged`].
    pub fn submit(&self, entry: T) -> Result<()> {
        let mut turn = self.tail.load(Ordering::Relaxed);
        loop {
            let at = Self::index(turn);
            let sequence = self.sequences[at].load(Ordering::Acquire);
            if sequence == turn {
                match self.tail.compare_exchange_weak(
                    turn,
                    turn.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        self.places[at].set_without_log(entry);
                        self.sequences[at].store(turn.wrapping_add(1), Ordering::Release);
                        break;
                    }
                    Err(now) => turn = now,
                }
            } else if sequence.wrapping_sub(turn).cast_signed() < 0 {
                return Err(Error::WouldBlock);
            } else {
                // Whoever published it moved the tail before, and the sequence was read with Acquire.
                let now = self.tail.load(Ordering::Relaxed);
                if now == turn {
                    return Err(damaged(&self.sequences[at], "a sequence that the queue's tail has come to"));
                }
                turn = now;
            }
        }
        self.arrived.fetch_add(1, Ordering::Release);
        Word::wake(&self.arrived, 1);
        if let Ok(Some(bell)) = self.bell.get() {
            bell.ring();
        }
        Ok(())
    }

    /// Takes the oldest entry.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when there is none.
    pub fn try_take(&self) -> Result<T> {
        loop {
            let turn = self.head.load(Ordering::Relaxed);
            let at = Self::index(turn);
            let sequence = self.sequences[at].load(Ordering::Acquire);
            if sequence != turn.wrapping_add(1) {
                if self.head.load(Ordering::Relaxed) == turn {
                    return Err(Error::WouldBlock);
                }
                continue;
            }
            let next = turn.wrapping_add(1);
            if self.head.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let entry = self.places[at].get();
                self.sequences[at].store(turn.wrapping_add(N as u64), Ordering::Release);
                return Ok(entry);
            }
        }
    }

    /// Takes the oldest entry, waiting for one.
    pub fn take(&self) -> T {
        loop {
            let seen = self.arrived.load(Ordering::Acquire);
            if let Ok(entry) = self.try_take() {
                return entry;
            }
            #[allow(clippy::cast_possible_truncation, reason = "the low half is what is slept on")]
            Word::wait(&self.arrived, seen as u32, None);
        }
    }
}

/// Submissions to a server and completions from it.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Duplex<S: Invariant + Copy, C: Invariant + Copy, const N: usize> {
    /// From clients to the server.
    pub submissions: Queue<S, N>,
    /// From the server back.
    pub completions: Queue<C, N>,
}

impl<S: Invariant + Copy, C: Invariant + Copy, const N: usize> Duplex<S, C, N> {
    /// Two empty queues.
    #[must_use]
    pub fn new(submission: S, completion: C) -> Self {
        Self { submissions: Queue::new(submission), completions: Queue::new(completion) }
    }
}
