//! Entries of a log: `offset | bytes << 32`, then the bytes padded to 8. `bytes` 0: the ID of a participant. A half-word, four bytes at a
//! multiple of 4, is a word alone: `offset | HALF | value << 32`, and never stands in the other form.
//!
//! # Contract
//! - An entry holds at most [`ENTRY_MAX`] bytes of one object; a longer range becomes several.
//! - Ranges need not be aligned; the words of a range begin with its first byte.

use crate::spill::Spill;
use crate::window::{SLOT_MASK, Window};
use core::sync::atomic::Ordering;
use twz_abi::ObjectId;

/// Most bytes of one entry; longer ranges take several.
pub(super) const ENTRY_MAX: usize = 1024;

/// Bit of an entry's first word that says that the value of a half-word stands in it.
pub(super) const HALF: u64 = 1 << 31;

/// Offset and bytes of an entry, from its first word.
#[inline(always)]
pub(super) fn split_head(head: u64) -> (usize, usize) {
    #[allow(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    let (offset, bytes) = ((head & !HALF) as u32 as usize, (head >> 32) as usize);
    if head & HALF == 0 { (offset, bytes) } else { (offset, 4) }
}

/// Whether an entry is of one whole word, by its first: by far the most are.
#[inline(always)]
pub(super) const fn is_word(head: u64) -> bool {
    const NOT_OFFSET: u64 = 0xffff_ffff << 32 | HALF | 7;
    head & NOT_OFFSET == 8 << 32
}

/// Lets an entry of whole words have one more, by its first.
#[inline(always)]
pub(super) const fn grow(head: &mut u64) {
    *head += 8 << 32;
}

/// Whether a range is a half-word, which has an entry of its own form.
#[inline(always)]
pub(super) const fn is_half(offset: usize, bytes: usize) -> bool {
    bytes == 4 && offset.is_multiple_of(4)
}

/// Words of an entry behind the first.
fn payload_words(head: u64) -> usize {
    match split_head(head).1 {
        0 => 2,
        _ if head & HALF != 0 => 0,
        bytes => bytes.div_ceil(8),
    }
}

/// How many words the first whole entries take, at most `most`.
pub(super) fn whole_entries(words: &[u64], most: usize) -> usize {
    let mut count = 0;
    while let Some(head) = words.get(count) {
        let payload = payload_words(*head);
        if count + 1 + payload > most {
            break;
        }
        count += 1 + payload;
    }
    count
}

/// The first word of an entry.
#[inline(always)]
pub(super) const fn entry_head(offset: usize, bytes: usize) -> u64 {
    offset as u64 | (bytes as u64) << 32
}

/// The entry of a half-word.
#[inline(always)]
pub(super) const fn half_entry(offset: usize, value: u32) -> u64 {
    offset as u64 | HALF | (value as u64) << 32
}

/// Turns what is at `offset` now into entries.
#[inline(always)]
pub(super) fn entries_of<const N: usize>(
    window: Window,
    offset: usize,
    bytes: usize,
    to: &mut Spill<u64, N>,
) {
    if bytes == 8 && offset.is_multiple_of(8) {
        to.extend([entry_head(offset, 8), window.load(offset)]); // by far the most common
    } else {
        long_entries_of(window, offset, bytes, to);
    }
}

fn long_entries_of<const N: usize>(window: Window, offset: usize, bytes: usize, to: &mut Spill<u64, N>) {
    let (mut offset, mut left) = (offset, bytes);
    while left > 0 {
        let piece = left.min(ENTRY_MAX);
        if is_half(offset, piece) {
            return to.push(half_entry(offset, window.half(offset).load(Ordering::Relaxed)));
        }
        to.push(entry_head(offset, piece));
        if (offset | piece).is_multiple_of(8) {
            words_at(window, offset, piece / 8, to);
        } else {
            to.extend_with(piece.div_ceil(8), |i| word_of_range(window, offset + i * 8, piece - i * 8));
        }
        offset += piece;
        left -= piece;
    }
}

/// Appends whole words.
fn words_at<const N: usize>(window: Window, offset: usize, count: usize, to: &mut Spill<u64, N>) {
    for i in 0..count / 8 {
        to.extend(window.eight(offset + i * 64));
    }
    to.extend_with(count % 8, |i| window.load(offset + (count / 8 * 8 + i) * 8));
}

/// The entry that names a participant.
pub(super) fn participant_entry(id: ObjectId) -> [u64; 3] {
    [0, id.lo, id.hi]
}

/// Up to eight bytes at `offset` as a word, however they are aligned.
#[inline]
fn word_of_range(window: Window, offset: usize, bytes: usize) -> u64 {
    if offset.is_multiple_of(8) && bytes >= 8 {
        return window.load(offset);
    }
    let mut word = [0; 8];
    let count = bytes.min(8);
    window.read(offset, &mut word[..count]);
    u64::from_le_bytes(word)
}

/// Stores `bytes` at `offset` from words.
#[cfg_attr(feature = "crash-sim", track_caller)]
pub(super) fn write_words(window: Window, offset: usize, bytes: usize, words: impl Iterator<Item = u64>) {
    for (at, word) in (0..bytes).step_by(8).zip(words) {
        if bytes - at >= 8 && (offset + at).is_multiple_of(8) {
            window.store(offset + at, word);
        } else {
            let count = (bytes - at).min(8);
            window.write(offset + at, &word.to_le_bytes()[..count]);
        }
    }
}

/// Stores what an entry in memory says.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
pub(super) fn store_range(window: Window, (offset, bytes, words): Range<'_>) {
    if let [head] = words
        && is_half(offset, bytes)
    {
        window.store_half(offset, half_of(*head));
    } else if (offset | bytes).is_multiple_of(8) {
        for (at, word) in (offset..).step_by(8).zip(words) {
            window.store(at, *word);
        }
    } else {
        write_words(window, offset, bytes, words.iter().copied());
    }
}

/// The value of a half-word's entry.
#[inline(always)]
const fn half_of(head: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "half a word")]
    let value = (head >> 32) as u32;
    value
}

/// A range that an entry says something of: offset, bytes, and the words that it holds; of a half-word, the entry itself.
pub(super) type Range<'a> = (usize, usize, &'a [u64]);

/// The ranges among entries that are held in memory.
#[inline(always)]
pub(super) fn ranges(words: &[u64]) -> impl Iterator<Item = Range<'_>> {
    let mut rest = words;
    core::iter::from_fn(move || {
        let (range, later) = next_range(rest)?;
        rest = later;
        Some(range)
    })
}

/// Appends what now stands in the ranges of entries, without their heads; calls `each` for the ranges.
#[inline(always)]
pub(super) fn contents_of<const N: usize>(
    window: Window,
    words: &[u64],
    to: &mut Spill<u64, N>,
    mut each: impl FnMut(usize, usize),
) {
    let mut rest = words;
    loop {
        let (pairs, _) = rest.as_chunks::<2>();
        let plain = to.extend_while(pairs, |[head, _]| {
            let offset = split_head(*head).0 & SLOT_MASK & !7; // which it is: so the compiler knows it
            is_word(*head).then(|| {
                each(offset, 8);
                window.load(offset) // by far the most
            })
        });
        let Some((range, later)) = next_range(&rest[plain * 2..]) else { return };
        each(range.0, range.1);
        long_contents_of(window, range, to);
        rest = later;
    }
}

/// [`contents_of`] a range.
#[inline(never)]
fn long_contents_of<const N: usize>(
    window: Window,
    (offset, bytes, words): Range<'_>,
    to: &mut Spill<u64, N>,
) {
    if is_half(offset, bytes) {
        to.push(half_entry(offset, window.half(offset).load(Ordering::Relaxed)));
    } else if (offset | bytes).is_multiple_of(8) {
        words_at(window, offset, words.len(), to);
    } else {
        to.extend_with(words.len(), |i| word_of_range(window, offset + i * 8, bytes - i * 8));
    }
}

/// The first range among entries, and what comes after it.
#[inline(always)]
fn next_range(words: &[u64]) -> Option<(Range<'_>, &[u64])> {
    let mut rest = words;
    loop {
        let (head, more) = rest.split_first()?;
        let (offset, bytes) = split_head(*head);
        if *head & HALF != 0 {
            return Some(((offset, bytes, core::slice::from_ref(head)), more));
        }
        let payload = match bytes {
            8 => 1,
            0 => 2,
            _ => bytes.div_ceil(8),
        };
        let (words, later) = more.split_at(payload.min(more.len()));
        if bytes != 0 {
            return Some(((offset, bytes, words), later));
        }
        rest = later;
    }
}

/// Stores what entries in memory say.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
pub(super) fn store_all(window: Window, words: &[u64]) {
    let mut rest = words;
    loop {
        if let [head, word, later @ ..] = rest
            && is_word(*head)
        {
            window.store(split_head(*head).0, *word); // by far the most
            rest = later;
        } else if let Some((range, later)) = next_range(rest) {
            store_range(window, range);
            rest = later;
        } else {
            return;
        }
    }
}
