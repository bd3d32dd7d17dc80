//! A guard: keeps a pattern in an object, looks at it again and again, and measures how long it waits for its turns.
//!
//! # Contract
//! - [`Watch::changed_words`] counts the words that were found changed, [`Watch::longest_gap`] is the longest time between two looks beyond
//!   the pause that the guard takes itself. Both are of its whole life.
//! - A guard needs no memory once [`Guard::new`] has returned, so it lives where everything else is used up: a sleep that the kernel has no
//!   memory for is a yield.
//! - The program `guard` is one in a context of its own. It talks to its starter by a [`board`] and by nothing else.

use crate::mapped::Mapped;
use core::sync::atomic::AtomicU32;
use twz_rt::abi::ErrorCode;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::{sync, syscall};

/// Words of the object that the program `guard` and its starter share: offsets.
pub mod board {
    use twz_rt::abi::object::DATA_OFFSET;

    /// ID of the guard's own object, low half first, which nobody else may reach.
    pub const OBJECT: u64 = DATA_OFFSET;
    /// 1 as soon as it guards.
    pub const READY: u64 = DATA_OFFSET + 16;
    /// 1 when it is to end.
    pub const STOP: u64 = DATA_OFFSET + 24;
    /// Looks so far.
    pub const CHECKS: u64 = DATA_OFFSET + 32;
    /// [`Watch::changed_words`](super::Watch::changed_words) so far.
    pub const CHANGED: u64 = DATA_OFFSET + 40;
    /// [`Watch::longest_gap`](super::Watch::longest_gap) so far.
    pub const GAP: u64 = DATA_OFFSET + 48;
}

/// How long a guard sleeps between two looks, in nanoseconds.
const PAUSE: u64 = 50_000_000;
/// Words of the pattern.
const WORDS: u64 = 64 * 512;

/// What a guard has found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Looks.
    pub checks: u64,
    /// Nanoseconds.
    pub longest_gap: u64,
    /// Words that did not hold what they must, of all looks.
    pub changed_words: u64,
}

/// A guard of an object.
#[derive(Debug)]
pub struct Guard {
    object: Mapped,
    last: u64,
    watch: Watch,
}

impl Guard {
    /// Begins to guard the object mapped here, which nobody else changes.
    #[must_use]
    pub fn new(object: Mapped) -> Self {
        (0..WORDS).for_each(|index| object.set_word(at(index), pattern(index)));
        Self { object, last: now(), watch: Watch::default() }
    }

    /// Pauses and looks; what was found so far.
    pub fn look(&mut self) -> Watch {
        // Times out; what comes on top of the pause is the wait for its turn.
        if let Err(ErrorCode::NoMemory) = sync::wait(&AtomicU32::new(0), 0, PAUSE) {
            syscall::thread_yield();
        }
        let here = now();
        self.watch.longest_gap = self.watch.longest_gap.max((here - self.last).saturating_sub(PAUSE));
        self.last = here;
        let wrong = (0..WORDS).filter(|&index| self.object.word(at(index)) != pattern(index)).count();
        self.watch.changed_words += wrong as u64;
        self.watch.checks += 1;
        self.watch
    }
}

const fn at(index: u64) -> u64 {
    DATA_OFFSET + index * 8
}

const fn pattern(index: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5ca1_ab1e
}

/// Nanoseconds since the machine started.
fn now() -> u64 {
    syscall::clock().map_or(0, |(since_start, _)| since_start)
}
