//! Records, as in `kv` (docs/formats/kv.md), in a file.

use crate::Mapping;
use kv::table::{FIRST_OFFSET, HEADER, UNIT, check, hash, store_parts};

/// Seed of all hashes.
pub(crate) const SEED: u64 = 0;

/// A record in a mapped file, whose lengths fit it. Its bytes never change, but for the check, which says whether it counts.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    file: &'a Mapping,
    at: usize,
    key_len: usize,
    value_len: usize,
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
        Self::with_key_len(file, at, key.len()).filter(|record| same_bytes(record.key(), key))
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

    /// Bytes that a record takes.
    pub(crate) const fn bytes_for(key: &[u8], value: &[u8]) -> usize {
        (HEADER + value.len() + key.len()).next_multiple_of(UNIT)
    }

    /// Writes one of this many bytes, and starts flushing it.
    #[inline]
    pub(crate) fn write(
        file: &Mapping,
        at: usize,
        bytes: usize,
        hash: u64,
        key: &[u8],
        value: &[u8],
        sequence: u64,
    ) {
        file.store(at + 16, sequence);
        file.store(at, (bytes / UNIT) as u64 | (key.len() as u64) << 32);
        let check = u64::from(check(hash, value, key.len(), sequence));
        file.store(at + 8, value.len() as u64 | check << 32);
        store_parts(at + HEADER, [value, key], |at, word| file.store(at, word));
        file.flush(at, HEADER + value.len() + key.len());
    }

    /// Number that tells which of two records of a key is newer.
    pub(crate) fn sequence(&self) -> u64 {
        self.file.load(self.at + 16)
    }

    /// Whether it was written whole, and is still the one of its key.
    pub(crate) fn counts(&self) -> bool {
        let right = check(hash(SEED, self.key()), self.value(), self.key_len, self.sequence());
        self.file.load(self.at + 8) >> 32 == u64::from(right)
    }

    /// Makes it count no more, durably.
    pub(crate) fn retire(&self) {
        self.file.store(self.at + 8, self.value_len as u64);
        self.file.flush(self.at + 8, 8);
        self.file.fence();
    }

    #[inline]
    fn slice(&self, at: usize, len: usize) -> &'a [u8] {
        // SAFETY: the constructors checked that the record lies inside the mapping, which lives as long as `'a`; value and key are written before
        // anything leads here and never again, and other processes are promised to stay away.
        unsafe { std::slice::from_raw_parts(self.file.base().wrapping_add(at), len) }
    }

    /// The value.
    #[inline]
    pub(crate) fn value(&self) -> &'a [u8] {
        self.slice(self.at + HEADER, self.value_len)
    }

    /// The key.
    #[inline]
    pub(crate) fn key(&self) -> &'a [u8] {
        self.slice(self.at + HEADER + self.value_len, self.key_len)
    }
}

/// Compares byte sequences of the same length as `kv` does: short ones by their two ends, which overlap, and not by a call.
#[inline]
fn same_bytes(ours: &[u8], theirs: &[u8]) -> bool {
    match ours.len() {
        4..8 => same_ends::<4>(ours, theirs),
        8..=16 => same_ends::<8>(ours, theirs),
        _ => ours == theirs,
    }
}

#[inline]
fn same_ends<const N: usize>(ours: &[u8], theirs: &[u8]) -> bool {
    ours.first_chunk::<N>() == theirs.first_chunk() && ours.last_chunk::<N>() == theirs.last_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_compared_at_any_length() {
        let text: [u8; 24] = core::array::from_fn(|at| u8::try_from(at).unwrap());
        for len in 0..=text.len() {
            assert!(same_bytes(&text[..len], &text[..len]), "{len}");
            for wrong in 0..len {
                let mut other = text;
                other[wrong] ^= 0x80;
                assert!(!same_bytes(&text[..len], &other[..len]), "{len} {wrong}");
            }
        }
    }
}
