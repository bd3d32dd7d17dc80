//! Entries of a log in memory: `offset | bytes << 32`, then the bytes padded to 8. `bytes` 0: the ID of a participant.
//!
//! # Contract
//! - An entry holds at most [`ENTRY_MAX`] bytes of one object; a longer range becomes several.
//! - Ranges need not be aligned; the words of a range begin with its first byte.

use crate::spill::Spill;
use crate::window::Window;
use twz_abi::ObjectId;

/// Most bytes of one entry; longer ranges take several.
pub(super) const ENTRY_MAX: usize = 1024;

/// Offset and bytes of an entry, from its first word.
pub(super) fn split_head(head: u64) -> (usize, usize) {
    #[allow(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    let (offset, bytes) = (head as u32 as usize, (head >> 32) as usize);
    (offset, bytes)
}

/// How many words the first whole entries take, at most `most`.
pub(super) fn whole_entries(words: &[u64], most: usize) -> usize {
    let mut count = 0;
    while let Some(head) = words.get(count) {
        let bytes = split_head(*head).1;
        let payload = if bytes == 0 { 2 } else { bytes.div_ceil(8) };
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
        to.push(entry_head(offset, piece));
        if (offset | piece).is_multiple_of(8) {
            to.extend_with(piece / 8, |i| window.load(offset + i * 8));
        } else {
            to.extend_with(piece.div_ceil(8), |i| word_of_range(window, offset + i * 8, piece - i * 8));
        }
        offset += piece;
        left -= piece;
    }
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

/// [`write_words`] of words in a slice.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
pub(super) fn store_range(window: Window, (offset, bytes, words): Range<'_>) {
    if let [word] = words
        && bytes == 8
        && offset.is_multiple_of(8)
    {
        window.store(offset, *word); // by far the most common
    } else if (offset | bytes).is_multiple_of(8) {
        for (at, word) in (offset..).step_by(8).zip(words) {
            window.store(at, *word);
        }
    } else {
        write_words(window, offset, bytes, words.iter().copied());
    }
}

/// A range that an entry says something of: offset, bytes, and the words that it holds.
pub(super) type Range<'a> = (usize, usize, &'a [u64]);

/// The ranges among entries that are held in memory.
#[inline(always)]
pub(super) fn ranges(words: &[u64]) -> impl Iterator<Item = Range<'_>> {
    let mut rest = words;
    core::iter::from_fn(move || {
        loop {
            let (head, more) = rest.split_first()?;
            let (offset, bytes) = split_head(*head);
            let payload = match bytes {
                8 => 1, // by far the most common
                0 => 2,
                _ => bytes.div_ceil(8),
            };
            let (words, later) = more.split_at(payload.min(more.len()));
            rest = later;
            if bytes != 0 {
                return Some((offset, bytes, words));
            }
        }
    })
}
