//! Appending batches.

use super::{BATCH_WORDS, Kind, Log, PIECE, Position, SMALL_BATCH_WORDS};
use crate::error::{Error, Result};
use crate::line::Line;
use crate::persist::{self, Around, LINE};
use crate::simulate;
use crate::tx::check::{Check, Lines};
use crate::tx::entry::whole_entries;
use crate::tx::{piece, room};
use crate::view;
use crate::window::Window;
use core::sync::atomic::Ordering;

/// Words for which a batch's first line has room, after the two of the head.
const LINE_WORDS: usize = LINE / 8 - 2;

/// So many lines may stand in the processor's store buffer, which has 56 to 114 words.
const NEW_LINES: usize = 16;

/// What a batch is: its kind, and how many lines before it the records begin of which it has the contents afterwards first; 0 if none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag(u32);

impl From<Kind> for Tag {
    #[inline(always)]
    fn from(kind: Kind) -> Self {
        Self(kind as u32)
    }
}

/// Bytes of a batch.
#[inline(always)]
const fn batch_bytes(words: usize) -> usize {
    (16 + words * 8).next_multiple_of(LINE)
}

impl Log {
    /// What a batch of `words` is that commits what a batch of `records` words has recorded, and comes right after it; `None` where it would not.
    #[inline]
    pub(crate) fn commit_after(&self, to: &Position, records: usize, words: usize) -> Option<Tag> {
        #[allow(clippy::cast_possible_truncation, reason = "lines of a batch, checked here")]
        let back = (batch_bytes(records) / LINE) as u32;
        let is_one = words <= SMALL_BATCH_WORDS || words <= self.batch_words();
        let fits = records <= BATCH_WORDS && is_one && to.at + batch_bytes(words) <= to.end;
        fits.then_some(Tag(Kind::Commit as u32 | back << 20))
    }

    /// Appends entries as batches, the last of them of kind `last` and the others of kind `others`; durable after a fence.
    /// `limit`: first offset that data does not use.
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn append(
        &self,
        to: &mut Position,
        others: Kind,
        last: impl Into<Tag>,
        words: &[u64],
        limit: impl Fn() -> Result<usize>,
    ) -> Result<()> {
        let last = last.into();
        if to.at + LINE > to.end {
            return self.append_batches(to, others, last, words, &limit);
        }
        // A batch of one line, where there is room for it, as most are: of each length on its own, which needs few stores and no loop.
        macro_rules! by_length {
            ($($length:literal)*) => {
                match words.len() {
                    $($length => {
                        if let Some(words) = words.as_array::<$length>() {
                            self.append_line(to, last, words);
                        }
                        Ok(())
                    })*
                    _ => self.append_batches(to, others, last, words, &limit),
                }
            };
        }
        const { assert!(LINE_WORDS == 6, "all that fit a line, below") };
        by_length!(0 1 2 3 4 5 6)
    }

    /// A batch of one line.
    #[inline(always)]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn append_line<const N: usize>(&self, to: &mut Position, tag: Tag, words: &[u64; N]) {
        let (head, mut check) = self.head_and_check(to, tag, N);
        check.add_first(words);
        if LINE <= persist::by_cache() {
            store_line(to.window, to.at, [check.end(), head], words);
        } else {
            store_line_around(to.window, to.at, [check.end(), head], words);
        }
        to.at += LINE;
        to.sequence = to.sequence.wrapping_add(1); // damage may have made it anything
    }

    #[inline(always)]
    fn head_and_check(&self, to: &Position, Tag(tag): Tag, words: usize) -> (u64, Check) {
        let head = u64::from(tag) | (words as u64) << 8 | u64::from(to.sequence) << 32;
        (head, Check::new(self.epoch(), head))
    }

    #[inline(never)]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn append_batches(
        &self,
        to: &mut Position,
        others: Kind,
        last: Tag,
        words: &[u64],
        limit: &impl Fn() -> Result<usize>,
    ) -> Result<()> {
        let mut rest = words;
        while rest.len() > SMALL_BATCH_WORDS {
            let most = self.batch_words();
            if rest.len() <= most {
                break;
            }
            let (now, later) = rest.split_at(whole_entries(rest, most));
            self.append_batch(to, others.into(), now, limit)?;
            rest = later;
        }
        self.append_batch(to, last, rest, limit)
    }

    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn append_batch(
        &self,
        to: &mut Position,
        tag: Tag,
        words: &[u64],
        limit: &impl Fn() -> Result<usize>,
    ) -> Result<()> {
        let bytes = batch_bytes(words.len());
        if to.at + bytes > to.end {
            self.next_chunk(to, bytes, limit()?)?;
        }
        let (head, mut check) = self.head_and_check(to, tag, words.len());
        let (first, rest) = words.split_at(words.len().min(LINE_WORDS));
        check.add_first(first);
        // The line with the check last, so that the others are on their way to memory while it is made.
        let by_cache = bytes <= persist::by_cache();
        if !rest.is_empty() {
            let mut lines = Lines::new();
            if by_cache {
                for (words, at) in rest.chunks(LINE / 8).zip((to.at + LINE..).step_by(LINE)) {
                    let word = |i: usize| words.get(i).copied().unwrap_or(0);
                    lines.add(&Line::of(word));
                    store_line(to.window, at, [], words);
                }
            } else {
                store_lines_around(to.window, to.at + LINE, rest, |line| lines.add(line));
            }
            check.add_lines(&lines);
        }
        if by_cache {
            store_line(to.window, to.at, [check.end(), head], first);
        } else {
            store_line_around(to.window, to.at, [check.end(), head], first);
        }
        to.at += bytes;
        to.sequence = to.sequence.wrapping_add(1); // damage may have made it anything
        Ok(())
    }

    /// Has the lines fetched that a small batch goes to: they come before it does.
    #[inline(always)]
    pub(crate) fn expect_batch(&self, to: Position) {
        if LINE <= persist::by_cache() {
            to.window.expect_store(to.at);
            to.window.expect_store(to.at + LINE);
        }
    }

    /// Goes on in the next chunk, which must have room for `bytes`, reserving it if it never was; where there is no room for it, in the next
    /// piece.
    #[cold]
    fn next_chunk(&self, to: &mut Position, bytes: usize, limit: usize) -> Result<()> {
        let full = Error::OutOfSpace(view::id_at(self.window.base()));
        let of_this = |error| if matches!(error, Error::OutOfSpace(_)) { full } else { error };
        if to.chunk & PIECE != 0 && Self::extend(to, bytes).map_err(of_this)? {
            return Ok(());
        }
        let chunk = if to.chunk & PIECE == 0 { self.chunk_after(to.chunk) } else { None };
        let next = match chunk {
            Some(next) if next.at >= self.floor() || self.reserve(next.at, limit).is_ok() => next,
            _ => {
                let place = self.piece_after(*to).ok_or(full)?;
                let (window, _) = place.find_or_make(self.piece_bytes()).map_err(of_this)?;
                let mut next = Self::in_piece(place, (window, 0)); // of which nothing is there yet
                Self::extend(&mut next, bytes).map_err(of_this)?;
                next
            }
        };
        *to = Position { sequence: to.sequence, ..next };
        if next.end - next.at < bytes { Err(full) } else { Ok(()) }
    }

    /// Moves the end of a position in a piece so that `bytes` more have room, if the piece is long enough.
    fn extend(to: &mut Position, bytes: usize) -> Result<bool> {
        let last = piece::end(to.window)?;
        let is_long_enough = to.at + bytes <= last;
        if is_long_enough {
            to.end = room::of_piece(to.window, to.end, to.at + bytes, last)?;
        }
        Ok(is_long_enough)
    }
}

/// Stores a line of a batch, `head` and words and zeros, and writes it back.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
fn store_line<const N: usize>(window: Window, at: usize, head: [u64; N], words: &[u64]) {
    let (first, rest) = window.line(at).split_at(N);
    for (place, word) in first.iter().zip(head) {
        place.store(word, Ordering::Relaxed);
    }
    for (i, place) in rest.iter().enumerate() {
        place.store(words.get(i).copied().unwrap_or(0), Ordering::Relaxed);
    }
    simulate::stored(window.base() + at, LINE);
    window.flush_line(at);
}

/// Stores the lines of a batch behind its first around the cache, words and zeros; `each` sees them before.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
fn store_lines_around(window: Window, at: usize, words: &[u64], mut each: impl FnMut(&Line)) {
    let mut around = Around::at(window, at);
    let mut store = |line: Line| {
        each(&line);
        around.store(line);
    };
    let (whole, last) = words.as_chunks::<{ LINE / 8 }>();
    let (old, new) = whole.split_at(whole.len().saturating_sub(NEW_LINES));
    old.iter().for_each(|words| store(Line::old(words)));
    new.iter().for_each(|words| store(Line::new(words)));
    if !last.is_empty() {
        store(Line::of(|i| last.get(i).copied().unwrap_or(0)));
    }
    around.end();
}

/// A line with the head of a batch, around the cache.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
fn store_line_around<const N: usize>(window: Window, at: usize, head: [u64; N], words: &[u64]) {
    let word = |i: usize| head.get(i).or_else(|| words.get(i - N)).copied().unwrap_or(0);
    #[allow(clippy::cast_possible_truncation, reason = "offsets are below 1 GiB")]
    persist::store_line(window, at as u32, &core::array::from_fn(word));
}
