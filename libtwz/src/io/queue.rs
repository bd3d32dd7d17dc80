//! A queue between programs: many submit, one takes, and completions come back the same way.
//!
//! # Contract
//! - Lock-free (`sync::turns`); an entry is taken by exactly one taker, in the order of turns.
//! - Entries live as long as the boot: [`Queue::start_boot`] empties a queue of an earlier one. What must survive, or wait for a place, goes into
//!   a [`crate::sync::Channel`].
//! - A program that ends between claiming a turn and publishing it (a few instructions) leaves a queue in which nothing behind that turn is
//!   taken until the next boot.

use super::event::Bell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::sync::{Turns, until};
use crate::sys::{Platform, Seam};
use crate::{InvPtr, PCell};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// A queue of at most `N` entries; `N` is a power of two, at least 2.
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
        const { assert!(N.is_power_of_two() && N > 1, "a queue's length is a power of two, and not one") };
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

    fn turns(&self) -> Turns<'_, AtomicU64> {
        let Self { tail, head, arrived, sequences, .. } = self;
        Turns { tail, head, arrived, sequences }
    }

    /// Puts an entry in.
    ///
    /// # Errors
    /// [`Error::WouldBlock`](crate::Error::WouldBlock) when the queue is full; [`Error::Damaged`](crate::Error::Damaged).
    pub fn submit(&self, entry: T) -> Result<()> {
        self.turns().submit(|at| self.places[at].set_without_log(entry))?;
        if let Ok(Some(bell)) = self.bell.get() {
            bell.ring();
        }
        Ok(())
    }

    /// Takes the oldest entry.
    ///
    /// # Errors
    /// [`Error::WouldBlock`](crate::Error::WouldBlock) when there is none; [`Error::Damaged`](crate::Error::Damaged).
    pub fn try_take(&self) -> Result<T> {
        self.turns().try_take(|at| self.places[at].get())
    }

    /// Takes the oldest entry, waiting for one.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged).
    pub fn take(&self) -> Result<T> {
        self.turns().take(|at| self.places[at].get(), None)
    }

    /// Takes the oldest entry, waiting for one for at most `limit`.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut); [`Error::Damaged`](crate::Error::Damaged).
    pub fn take_for(&self, limit: Duration) -> Result<T> {
        self.turns().take(|at| self.places[at].get(), until(limit))
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

    /// [`Queue::start_boot`] of both.
    pub fn start_boot(&self) {
        self.submissions.start_boot();
        self.completions.start_boot();
    }
}
