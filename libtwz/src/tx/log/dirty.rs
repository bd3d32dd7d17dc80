//! The set of dirty lines, and the checkpoint that makes them durable.

use super::{DIRTY, DIRTY_PLACES, END_OF_LINES, Log, Position, START};
use crate::persist::{self, LINE};
use core::sync::atomic::Ordering;

impl Log {
    /// Notes that lines of a range are changed in place, or will be, and are not durable. A line that loses its place to
    /// another is flushed, which counts with the next fence of this thread.
    #[inline(always)]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn mark_dirty(&self, offset: usize, bytes: usize) {
        let (first, last) = (offset / LINE, (offset + bytes.max(1) - 1) / LINE);
        self.mark_line(first);
        for line in first + 1..=last {
            self.mark_line(line);
        }
    }

    #[inline(always)]
    fn mark_line(&self, line: usize) {
        let place = self.window.half(self.at + DIRTY + line % DIRTY_PLACES * 4);
        #[allow(clippy::cast_possible_truncation, reason = "at most 2^24 lines in an object")]
        let line = line as u32;
        let before = place.load(Ordering::Relaxed);
        if before != line {
            place.store(line, Ordering::Relaxed);
            self.flush_marked(before);
        }
    }

    /// Flushes a line that the set of dirty ones named; numbers that damage made are outside the data, or do no harm.
    #[inline(never)]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn flush_marked(&self, line: u32) {
        if (START / LINE..END_OF_LINES).contains(&(line as usize)) {
            self.window.flush(line as usize * LINE, LINE);
        }
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
        let place = self.window.half(self.at + DIRTY + line % DIRTY_PLACES * 4);
        let unmarked = place.load(Ordering::Relaxed) as usize != line;
        if unmarked {
            self.window.flush(line * LINE, LINE);
        }
        unmarked
    }

    /// Makes everything in place durable and the log empty; nothing may be trailing.
    #[cold]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn checkpoint(&self) -> Position {
        for place in 0..DIRTY_PLACES {
            let place = self.window.half(self.at + DIRTY + place * 4);
            let line = place.load(Ordering::Relaxed);
            if line != 0 {
                self.flush_marked(line);
                place.store(0, Ordering::Relaxed);
            }
        }
        persist::fence();
        self.void()
    }
}
