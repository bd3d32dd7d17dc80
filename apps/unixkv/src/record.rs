//! Records, as in `kv` (docs/formats/kv.md), in a file.
//!
//! A place may be used again while somebody reads what it held, so everything here is read by words, atomically, and may be a mixture: [`crate::Value`]
//! tells afterwards.

use crate::Mapping;
use kv::table::{FIRST_OFFSET, HEADER, UNIT, check, hash, store_parts};
use std::sync::atomic::{Ordering, fence};

/// Seed of all hashes.
pub(crate) const SEED: u64 = 0;

/// A record in a mapped file, whose lengths fit it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) file: &'a Mapping,
    pub(crate) at: usize,
    pub(crate) key_len: usize,
    pub(crate) value_len: usize,
}

impl<'a> Record<'a> {
    /// The record at `at`; `None` when there is none whose lengths fit the file.
    pub(crate) fn at(file: &'a Mapping, at: usize) -> Option<Self> {
        Self::with_key_len(file, at, Self::key_len_at(file, at)?)
    }

    /// The record at `at`, if it has this key.
    #[inline]
    pub(crate) fn with_key(file: &'a Mapping, at: usize, key: &[u8]) -> Option<Self> {
        if Self::key_len_at(file, at)? != key.len() {
            return None;
        }
        Self::with_key_len(file, at, key.len()).filter(|record| record.has_key(key))
    }

    #[inline]
    fn key_len_at(file: &Mapping, at: usize) -> Option<usize> {
        let is_inside =
            at >= FIRST_OFFSET && at.is_multiple_of(UNIT) && at <= file.len().checked_sub(HEADER)?;
        is_inside.then(|| (file.load(at) >> 32) as usize)
    }

    #[inline]
    fn with_key_len(file: &'a Mapping, at: usize, key_len: usize) -> Option<Self> {
        #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let value_len = file.load(at + 8) as u32 as usize;
        let fits = HEADER + value_len + key_len <= file.len() - at;
        fits.then_some(Self { file, at, key_len, value_len })
    }

    /// Units of a block for a record.
    #[inline]
    pub(crate) const fn units_for(key: &[u8], value: &[u8]) -> usize {
        (HEADER + value.len() + key.len()).div_ceil(UNIT)
    }

    /// Units of the block at `at`.
    #[inline]
    pub(crate) fn units_at(file: &Mapping, at: usize) -> usize {
        (file.load(at) & 0xffff_ffff) as usize
    }

    /// Writes one into a block of so many units, and starts flushing it.
    #[inline]
    pub(crate) fn write(
        file: &Mapping,
        at: usize,
        units: usize,
        hash: u64,
        key: &[u8],
        value: &[u8],
        sequence: u64,
    ) {
        file.store(at + 16, sequence);
        fence(Ordering::Release);
        file.store(at, units as u64 | (key.len() as u64) << 32);
        let check = u64::from(check(hash, value, key.len(), sequence));
        file.store(at + 8, value.len() as u64 | check << 32);
        store_parts(at + HEADER, [value, key], |at, word| file.store(at, word));
        file.flush(at, HEADER + value.len() + key.len());
    }

    /// Number that tells which of two records of a key is newer.
    pub(crate) fn sequence(&self) -> u64 {
        self.file.load(self.at + 16)
    }

    /// Its key, if it was written whole, and is still the one of that.
    pub(crate) fn counting_key(&self) -> Option<Vec<u8>> {
        let (value, key) = (self.copy(self.value_at(), self.value_len), self.key());
        let right = check(hash(SEED, &key), &value, self.key_len, self.sequence());
        (self.file.load(self.at + 8) >> 32 == u64::from(right)).then_some(key)
    }

    /// Makes it count no more, durably.
    pub(crate) fn retire(&self) {
        self.file.store(self.at + 8, self.value_len as u64);
        self.file.flush(self.at + 8, 8);
        self.file.fence();
    }

    /// Offset of the value, a multiple of 8.
    #[inline]
    pub(crate) const fn value_at(&self) -> usize {
        self.at + HEADER
    }

    /// A copy of the key.
    pub(crate) fn key(&self) -> Vec<u8> {
        self.copy(self.value_at() + self.value_len, self.key_len)
    }

    /// A copy of bytes of the record.
    pub(crate) fn copy(&self, from: usize, len: usize) -> Vec<u8> {
        let byte = |at: usize| self.file.load(at).to_le_bytes()[at % 8];
        if !from.is_multiple_of(8) {
            return (from..from + len).map(byte).collect();
        }
        let words = (from..from + len).step_by(8);
        let mut bytes: Vec<u8> = words.flat_map(|at| self.file.load(at).to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// Whether its key, which has the same length, is this one. As in `kv`: both ends, which overlap, then what is between, and no load past the end.
    #[inline]
    fn has_key(&self, key: &[u8]) -> bool {
        let at = self.value_at() + self.value_len;
        if let (Some(first), Some(last)) = (key.first_chunk(), key.last_chunk()) {
            let ends = self.word_at_any(at) == u64::from_le_bytes(*first)
                && self.word_at_any(at + key.len() - 8) == u64::from_le_bytes(*last);
            let words = key.as_chunks().0;
            return ends
                && (8..)
                    .step_by(8)
                    .zip(words.iter().skip(1))
                    .all(|(from, word)| self.word_at_any(at + from) == u64::from_le_bytes(*word));
        }
        if let (Some(first), Some(last)) = (key.first_chunk(), key.last_chunk()) {
            return self.half_at_any(at) == u32::from_le_bytes(*first)
                && (key.len() == 4 || self.half_at_any(at + key.len() - 4) == u32::from_le_bytes(*last));
        }
        self.copy(at, key.len()) == key
    }

    /// The eight bytes from `at`, which lie in the record.
    #[inline]
    fn word_at_any(&self, at: usize) -> u64 {
        let word;
        // SAFETY: the constructors checked that the record lies inside the mapping, which lives as long as `'a`. A load by the processor, of which the
        // compiler assumes nothing, is no data race.
        unsafe {
            std::arch::asm!("mov {}, [{} + {}]", out(reg) word, in(reg) self.file.base(), in(reg) at,
                options(nostack, preserves_flags, readonly));
        }
        word
    }

    /// [`Record::word_at_any`] of four bytes.
    #[inline]
    fn half_at_any(&self, at: usize) -> u32 {
        let half;
        // SAFETY: as there.
        unsafe {
            std::arch::asm!("mov {:e}, [{} + {}]", out(reg) half, in(reg) self.file.base(), in(reg) at,
                options(nostack, preserves_flags, readonly));
        }
        half
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_at_any_place_and_length() {
        let folder = tempfile::tempdir().unwrap();
        let file = Mapping::open(&folder.path().join("f"), 3 * FIRST_OFFSET, false).unwrap();
        let text: [u8; 40] = core::array::from_fn(|at| u8::try_from(at).unwrap() + 1);
        for value in 0..16 {
            for len in 0..text.len() {
                Record::write(&file, FIRST_OFFSET, 9, 1, &text[..len], &text[..value], 1);
                assert!(Record::with_key(&file, FIRST_OFFSET, &text[..len]).is_some(), "{value} {len}");
                for wrong in 0..len {
                    let mut other = text;
                    other[wrong] ^= 0x80;
                    assert!(Record::with_key(&file, FIRST_OFFSET, &other[..len]).is_none(), "{len} {wrong}");
                }
            }
        }
    }
}
