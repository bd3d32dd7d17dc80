//! Records and slots, bit by bit.
//!
//! ```text
//! record, in a block of a data object, a multiple of 16
//!   +0   units: u32      size of the block in 16 bytes; 0 where a chunk has no block yet
//!   +4   key_len: u32
//!   +8   value_len: u32
//!   +12  check: u32      over all that follows and the lengths; 0: the block is free
//!   +16  sequence: u64   greater than that of every record written before in the store
//!   +24  value, then key
//!
//! slot, a word of the index; 0: empty
//!   63          38 37          26 25                0
//!  +--------------+--------------+-------------------+
//!  | hash, low 26 | FOT index    | offset / 16       |
//!  +--------------+--------------+-------------------+
//! ```
//! A slot is a persistent pointer ([`PersistentPtr`]) with the unused bits of both halves squeezed out, and a part of the key's hash in
//! their place: enough to tell keys apart without touching their records, and to split a segment without reading any.
//!
//! Media: an aligned word is never torn; a record may be torn anywhere until its fence, which `check` tells.

use crate::error::{Error, Result};
use libtwz::{PCell, PersistentPtr, Window};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes that block sizes and offsets are multiples of.
pub(crate) const UNIT: usize = 16;
/// Bytes before a record's value.
pub(crate) const HEADER: usize = 24;
/// Least offset of anything in an object.
pub(crate) const FIRST_OFFSET: usize = 4096;
/// Bits of the hash in a slot.
pub(crate) const TAG_BITS: u32 = 26;
const FOT_BITS: u32 = 12;
const OFFSET_BITS: u32 = 26;
const _: () = assert!(TAG_BITS + FOT_BITS + OFFSET_BITS == u64::BITS);

/// A word of a new object.
pub(crate) const fn zero() -> PCell<u64> {
    PCell::new(0)
}

/// The hash of a key in a store with `seed`.
#[inline]
pub(crate) fn hash(seed: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed)
}

/// The part of a hash that slots hold.
#[inline]
pub(crate) const fn tag(hash: u64) -> u64 {
    hash & ((1 << TAG_BITS) - 1)
}

/// A slot that leads to a record; nonzero, since FOT indexes of data objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u64);

impl Slot {
    pub(crate) const EMPTY: Self = Self(0);

    /// A slot for the record at `offset` of the object that FOT entry `fot` names.
    pub(crate) fn new(hash: u64, fot: u32, offset: usize) -> Self {
        let pointer = u64::from(fot) << OFFSET_BITS | (offset / UNIT) as u64;
        Self(tag(hash) << (FOT_BITS + OFFSET_BITS) | pointer)
    }

    #[inline]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What all slots of this hash have in common; leads nowhere.
    #[inline]
    pub(crate) const fn with_tag(hash: u64) -> Self {
        Self(hash << (FOT_BITS + OFFSET_BITS))
    }

    /// Whether two slots have the same tag.
    #[inline]
    pub(crate) const fn same_tag(self, other: Self) -> bool {
        (self.0 ^ other.0) < 1 << (FOT_BITS + OFFSET_BITS)
    }

    #[inline]
    pub(crate) const fn tag(self) -> u64 {
        self.0 >> (FOT_BITS + OFFSET_BITS)
    }

    /// Where it leads, as a pointer that stands in the index object.
    #[inline]
    pub(crate) fn pointer(self) -> PersistentPtr {
        #[allow(clippy::cast_possible_truncation, reason = "masked to 26 bits, times 16")]
        let offset = (self.0 & ((1 << OFFSET_BITS) - 1)) as u32 * 16;
        PersistentPtr::new(self.fot(), offset)
    }

    #[inline]
    pub(crate) const fn fot(self) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "masked to 12 bits")]
        let fot = (self.0 >> OFFSET_BITS & ((1 << FOT_BITS) - 1)) as u32;
        fot
    }
}

/// Most data and index objects of a store: what fits the FOT index of a slot.
pub(crate) const OBJECTS_MAX: u32 = (1 << FOT_BITS) - 1;

/// Units of a block for a record.
pub(crate) fn units_for(key_len: usize, value_len: usize) -> Result<usize> {
    let bytes = HEADER.saturating_add(key_len).saturating_add(value_len);
    if u32::try_from(bytes).is_err() {
        return Err(Error::TooLarge { bytes: bytes as u64, limit: u64::from(u32::MAX) });
    }
    Ok(bytes.div_ceil(UNIT))
}

/// A record's place and what its header says, checked against its block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) window: Window,
    pub(crate) offset: usize,
    pub(crate) key_len: usize,
    pub(crate) value_len: usize,
}

impl Record {
    /// The record at `offset`; `None` when the lengths do not fit the block (somebody is changing it, or damage).
    #[inline]
    pub(crate) fn at(window: Window, offset: usize) -> Option<Self> {
        if offset < FIRST_OFFSET {
            return None; // page 0 is never mapped
        }
        let (first, second) = (window.load(offset), window.load(offset + 8));
        #[allow(clippy::cast_possible_truncation, reason = "the low halves are meant")]
        let (units, value_len) = (first as u32 as usize, second as u32 as usize);
        let key_len = (first >> 32) as usize;
        let fits = HEADER + key_len + value_len <= units * UNIT;
        fits.then_some(Self { window, offset, key_len, value_len })
    }

    /// Offset of the value.
    #[inline]
    pub(crate) const fn value_at(&self) -> usize {
        self.offset + HEADER
    }

    /// Offset of the key.
    #[inline]
    pub(crate) const fn key_at(&self) -> usize {
        self.offset + HEADER + self.value_len
    }

    /// Number that tells which of two records of a key is newer.
    pub(crate) fn sequence(&self) -> u64 {
        self.window.load(self.offset + 16)
    }

    /// Whether the record has this key.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        self.key_len == key.len() && same_bytes(self.window, self.key_at(), key)
    }
}

/// The check word of a record: never 0.
pub(crate) fn check(key_hash: u64, value: &[u8], key_len: usize, sequence: u64) -> u32 {
    let seed = key_hash ^ sequence.rotate_left(32) ^ (key_len as u64) << 48;
    let hash = xxh3_64_with_seed(value, seed) ^ (value.len() as u64);
    #[allow(clippy::cast_possible_truncation, reason = "folded")]
    let folded = (hash ^ hash >> 32) as u32;
    folded.max(1)
}

/// Compares bytes in an object with ours, by words.
#[inline]
fn same_bytes(window: Window, at: usize, bytes: &[u8]) -> bool {
    let shift = at % 8 * 8;
    let mut word_at = at & !7;
    let mut chunks = bytes.chunks_exact(8);
    let mut low = window.load(word_at);
    for chunk in &mut chunks {
        word_at += 8;
        let mut theirs = low >> shift;
        if shift != 0 {
            low = window.load(word_at);
            theirs |= low << (64 - shift);
        } else if word_at < at + bytes.len() {
            low = window.load(word_at);
        }
        if theirs.to_le_bytes() != *chunk {
            return false;
        }
    }
    let rest = chunks.remainder();
    if rest.is_empty() {
        return true;
    }
    let mut theirs = low >> shift;
    if shift != 0 && rest.len() * 8 > 64 - shift {
        theirs |= window.load(word_at + 8) << (64 - shift);
    }
    let mut ours = [0_u8; 8];
    ours[..rest.len()].copy_from_slice(rest);
    (theirs ^ u64::from_le_bytes(ours)) << (64 - rest.len() * 8) == 0
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "tests of small numbers")]
mod tests {
    use super::*;
    use libtwz::prelude::*;

    #[test]
    fn slots_hold_what_they_were_made_of() {
        let slot = Slot::new(u64::MAX, OBJECTS_MAX, (1 << 30) - 16);
        assert_eq!((slot.tag(), slot.fot()), ((1 << 26) - 1, OBJECTS_MAX));
        assert_eq!(slot.pointer(), PersistentPtr::new(OBJECTS_MAX, (1 << 30) - 16));
        assert!(!Slot::new(0, 1, 0).is_empty());
    }

    #[test]
    fn bytes_are_compared_at_any_place_and_length() {
        let object = ObjectBuilder::new().build([0_u64; 16]).unwrap();
        let (window, base) = (object.window(), object.global().offset() as usize);
        let text: [u8; 64] = core::array::from_fn(|i| i as u8 + 1);
        for start in 0..16 {
            for len in 0..40 {
                window.write(base + start, &text[..len]);
                assert!(same_bytes(window, base + start, &text[..len]), "{start} {len}");
                for wrong in 0..len {
                    let mut other = text;
                    other[wrong] ^= 0x80;
                    assert!(!same_bytes(window, base + start, &other[..len]), "{start} {len} {wrong}");
                }
            }
        }
    }

    #[test]
    fn sizes_that_fit_nothing_are_refused() {
        assert_eq!(units_for(4, 4).unwrap(), 2);
        assert!(units_for(usize::MAX, 1).is_err());
    }
}
