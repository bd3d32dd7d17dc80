//! The set of dirty lines, and the checkpoint that makes them durable.
//!
//! A place holds the number of a line, and above it a few bits of the transaction that marked it last: so a transaction notices that it took
//! the place of a line of its own.
//!
//! ```text
//! +0     u32[992]  places
//! +3968  u32       how many of these are used:
//! +3972  u32[31]   lines that lost their places, flushed when there are so many
//! ```
//! For a fence that waits for one such line takes as long as one that waits for all of them, and longer than one that waits for none.

use super::{DIRTY, DIRTY_WORDS, END_OF_LINES, Log, Position, START};
use crate::persist::{self, LINE};
use core::sync::atomic::{AtomicU32, Ordering};

/// Lines that may have lost their places and are not flushed.
const LATER: usize = 31;
/// Places of the set.
const PLACES: usize = DIRTY_WORDS - 1 - LATER;
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

impl Log {
    /// Notes that lines of a range are changed in place, or will be, and are not durable. A line that loses its place to
    /// another is flushed later on, in a transaction's middle, whose fence counts for it. True if one did that `marker` had marked: what is stored to
    /// it after that needs [`Log::flush_unmarked`]. Now and then true without.
    #[inline(always)]
    pub(crate) fn mark_dirty(&self, marker: Marker, offset: usize, bytes: usize) -> bool {
        let first = offset / LINE;
        let mut lost = self.mark_line(marker, first);
        if offset % LINE + bytes <= LINE {
            return lost; // by far the most common
        }
        for line in first + 1..=(offset + bytes - 1) / LINE {
            lost |= self.mark_line(marker, line);
        }
        lost
    }

    #[inline(always)]
    fn mark_line(&self, marker: Marker, line: usize) -> bool {
        let place = self.place_of(line);
        #[allow(clippy::cast_possible_truncation, reason = "at most 2^24 lines in an object")]
        let line = line as u32;
        let before = place.load(Ordering::Relaxed);
        place.store(line | marker.0, Ordering::Relaxed);
        (before ^ line) & LINE_MASK != 0 && self.put_off(marker, before)
    }

    /// Has a line that lost its place flushed later on, with others. Says whether `marker` had marked it.
    #[inline(never)]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn put_off(&self, marker: Marker, marked: u32) -> bool {
        if marked != 0 {
            let count = self.later().min(LATER - 1);
            self.word(PLACES + 1 + count).store(marked, Ordering::Relaxed);
            self.set_later(count + 1);
            if count + 1 == LATER {
                self.flush_later();
            }
        }
        marked & !LINE_MASK == marker.0
    }

    /// Flushes the lines that lost their places.
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn flush_later(&self) {
        for i in 0..self.later() {
            self.flush_marked(self.word(PLACES + 1 + i).load(Ordering::Relaxed));
        }
        self.set_later(0);
    }

    /// How many lines lost their places and are not flushed; damage may have made it anything.
    #[inline]
    fn later(&self) -> usize {
        self.word(PLACES).load(Ordering::Relaxed) as usize % (LATER + 1)
    }

    #[inline]
    fn set_later(&self, count: usize) {
        #[allow(clippy::cast_possible_truncation, reason = "at most 31")]
        self.word(PLACES).store(count as u32, Ordering::Relaxed);
    }

    /// Flushes a line that a place names; numbers that damage made are outside the data, or do no harm.
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn flush_marked(&self, marked: u32) {
        let line = (marked & LINE_MASK) as usize;
        if line >= START / LINE {
            self.window.flush_line(line * LINE);
        }
    }

    #[inline(always)]
    fn word(&self, i: usize) -> &'static AtomicU32 {
        self.window.half(self.at + DIRTY + i * 4)
    }

    #[inline(always)]
    fn place_of(&self, line: usize) -> &'static AtomicU32 {
        const { assert!(DIRTY_WORDS.is_power_of_two() && PLACES >= DIRTY_WORDS / 2) };
        let i = line % DIRTY_WORDS;
        self.word(if i < PLACES { i } else { i - DIRTY_WORDS / 2 })
    }

    /// Flushes those lines of a range that have lost their place to others of the same transaction; true if there were any.
    #[inline]
    pub(crate) fn flush_unmarked(&self, offset: usize, bytes: usize) -> bool {
        let (first, last) = (offset / LINE, (offset + bytes.max(1) - 1) / LINE);
        let mut any = self.flush_unmarked_line(first);
        for line in first + 1..=last {
            any |= self.flush_unmarked_line(line);
        }
        any
    }

    #[inline(always)]
    fn flush_unmarked_line(&self, line: usize) -> bool {
        let unmarked = (self.place_of(line).load(Ordering::Relaxed) & LINE_MASK) as usize != line;
        if unmarked {
            self.window.flush_line(line * LINE);
        }
        unmarked
    }

    /// Makes everything in place durable and the log empty; nothing may be trailing.
    #[cold]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn checkpoint(&self) -> Position {
        self.flush_later();
        for place in 0..PLACES {
            let place = self.word(place);
            let marked = place.load(Ordering::Relaxed);
            if marked != 0 {
                self.flush_marked(marked);
                place.store(0, Ordering::Relaxed);
            }
        }
        persist::fence();
        self.void()
    }
}
