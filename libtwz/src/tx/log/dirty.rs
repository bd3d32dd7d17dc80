//! The set of dirty lines, and the checkpoint that makes them durable.
//!
//! A place holds the number of a line, and above it a few bits of the transaction that marked it last: so a transaction notices that it took
//! the place of a line of its own.
//!
//! ```text
//! +0     u32[1024]  places
//! +4096  u32        how many of these are used:
//! +4100  u32[31]    lines that lost their places, flushed when there are so many
//! ```
//! For a fence that waits for one such line takes as long as one that waits for all of them, and longer than one that waits for none.

use super::{DIRTY, DIRTY_WORDS, END_OF_LINES, LATER, Log, PLACES, Position, START};
use crate::persist::{self, LINE};
use crate::window::Window;
use core::sync::atomic::{AtomicU32, Ordering};

/// Bits of a place that are the line's number.
const LINE_BITS: u32 = END_OF_LINES.ilog2();
const LINE_MASK: u32 = (1 << LINE_BITS) - 1;

/// What tells the lines that a transaction marked from those of most others. Never 0, which a place that was never used has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker(u32);

impl Marker {
    /// For a transaction whose first batch has this number.
    #[inline(always)]
    pub(crate) const fn of(sequence: u32) -> Self {
        Self((sequence << LINE_BITS) | 1 << 31)
    }
}

/// The set in an object's log.
#[derive(Clone, Copy, Debug)]
struct Set {
    window: Window,
    words: &'static [AtomicU32; DIRTY_WORDS],
}

/// The set, for a transaction that marks lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dirty {
    set: Set,
    marker: Marker,
    lost: bool,
}

impl Dirty {
    /// Notes that lines of a range are changed in place, or will be, and are not durable. A line that loses its place to
    /// another is flushed later on, in a transaction's middle, whose fence counts for it.
    #[inline(always)]
    pub(crate) fn mark(&mut self, offset: usize, bytes: usize) {
        let first = offset / LINE;
        self.mark_line(first);
        if offset % LINE + bytes <= LINE {
            return; // by far the most common
        }
        for line in first + 1..=(offset + bytes - 1) / LINE {
            self.mark_line(line);
        }
    }

    #[inline(always)]
    fn mark_line(&mut self, line: usize) {
        let place = &self.set.words[place_of(line)];
        #[allow(clippy::cast_possible_truncation, reason = "at most 2^24 lines in an object")]
        let line = line as u32;
        let before = place.load(Ordering::Relaxed);
        place.store(line | self.marker.0, Ordering::Relaxed);
        if (before ^ line) & LINE_MASK != 0 {
            self.lost |= self.set.put_off(self.marker, before);
        }
    }

    /// Whether a line lost its place that this transaction had marked: what is stored to it after that needs [`Dirty::flush_unmarked`]. Now and
    /// then true without.
    #[inline(always)]
    pub(crate) const fn lost(&self) -> bool {
        self.lost
    }

    /// Flushes those lines of a range that have lost their place to others of the same transaction; true if there were any.
    #[inline]
    pub(crate) fn flush_unmarked(&self, offset: usize, bytes: usize) -> bool {
        let (first, last) = (offset / LINE, (offset + bytes.max(1) - 1) / LINE);
        let mut any = self.set.flush_unmarked_line(first);
        for line in first + 1..=last {
            any |= self.set.flush_unmarked_line(line);
        }
        any
    }
}

/// Which word of the set is a line's place.
#[inline(always)]
const fn place_of(line: usize) -> usize {
    const { assert!(PLACES.is_power_of_two()) };
    line % PLACES
}

impl Set {
    /// Has a line that lost its place flushed later on, with others. Whether the transaction with this marker had marked it.
    #[inline(never)]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn put_off(self, marker: Marker, marked: u32) -> bool {
        if marked != 0 {
            let count = self.later().min(LATER - 1);
            self.words[PLACES + 1 + count].store(marked, Ordering::Relaxed);
            self.set_later(count + 1);
            if count + 1 == LATER {
                self.flush_later();
            }
        }
        marked & !LINE_MASK == marker.0
    }

    /// Flushes the lines that lost their places.
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn flush_later(self) {
        for marked in self.words[PLACES + 1..].iter().take(self.later()) {
            self.flush_marked(marked.load(Ordering::Relaxed));
        }
        self.set_later(0);
    }

    /// How many lines lost their places and are not flushed; damage may have made it anything.
    #[inline]
    fn later(self) -> usize {
        self.words[PLACES].load(Ordering::Relaxed) as usize % (LATER + 1)
    }

    #[inline]
    fn set_later(self, count: usize) {
        #[allow(clippy::cast_possible_truncation, reason = "at most 31")]
        self.words[PLACES].store(count as u32, Ordering::Relaxed);
    }

    /// Flushes a line that a place names; numbers that damage made are outside the data, or do no harm.
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn flush_marked(self, marked: u32) {
        let line = (marked & LINE_MASK) as usize;
        if line >= START / LINE {
            self.window.flush_line(line * LINE);
        }
    }

    #[inline(always)]
    fn flush_unmarked_line(self, line: usize) -> bool {
        let unmarked = (self.words[place_of(line)].load(Ordering::Relaxed) & LINE_MASK) as usize != line;
        if unmarked {
            self.window.flush_line(line * LINE);
        }
        unmarked
    }
}

impl Log {
    #[inline(always)]
    fn set(&self) -> Set {
        Set { window: self.window, words: self.window.halves(self.at + DIRTY) }
    }

    /// The set, for the transaction whose lines have this marker.
    #[inline(always)]
    pub(crate) fn dirty(&self, marker: Marker) -> Dirty {
        Dirty { set: self.set(), marker, lost: false }
    }

    /// Makes everything in place durable and the log empty; nothing may be trailing.
    #[cold]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn checkpoint(&self) -> Position {
        let set = self.set();
        set.flush_later();
        for place in &set.words[..PLACES] {
            let marked = place.load(Ordering::Relaxed);
            if marked != 0 {
                set.flush_marked(marked);
                place.store(0, Ordering::Relaxed);
            }
        }
        persist::fence();
        self.void()
    }
}
