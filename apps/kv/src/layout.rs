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
//!   63        52 51          32 31 29            4 3  0
//!  +------------+--------------+--+---------------+--+-+
//!  | FOT index  | hash, low 20 | 0|  offset / 16  | 0|g|   g, 2 bits: bucket xor the one that the key belongs to
//!  +------------+--------------+--+---------------+--+-+
//!
//! tags, the first word of a bucket
//!   byte 0      1: keys of this bucket may be in those beside it
//!   byte n      of the key whose record slot n leads to: 7 bits of the hash, and 0x80; 0: the slot is empty
//! ```
//! A slot is a persistent pointer ([`PersistentPtr`]) with a part of the key's hash in its unused bits: enough to split a segment without
//! reading any record.
//!
//! Media: an aligned word is never torn; a record may be torn anywhere until its fence, which `check` tells.

use crate::error::{Error, Result};
use core::num::NonZero;
use core::sync::atomic::Ordering;
use libtwz::{PCell, PersistentPtr, Window, tags};
use twz_abi::object;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes that block sizes and offsets are multiples of.
pub const UNIT: usize = 16;
/// Bytes before a record's value.
pub const HEADER: usize = 24;
/// Least offset of anything in an object.
pub const FIRST_OFFSET: usize = 4096;
/// Offset where the data of any object ends.
#[allow(clippy::cast_possible_truncation, reason = "below 2^30")]
const DATA_END: usize = object::DATA_END as usize;
/// Bits of the hash in a slot.
pub(crate) const TAG_BITS: u32 = 20;
const FOT_BITS: u32 = 12;
const FOT_SHIFT: u32 = u64::BITS - FOT_BITS;
const TAG_SHIFT: u32 = FOT_SHIFT - TAG_BITS;
/// Bits of a slot that are an offset.
const OFFSET_MASK: u64 = (1 << 30) - UNIT as u64;
/// Bits of a slot that say which bucket its key is a guest from.
const GUEST: u64 = 3;
const _: () = assert!(TAG_SHIFT == 32);

/// A word of a new object.
pub(crate) const fn zero() -> PCell<u64> {
    PCell::new(0)
}

/// The hash of a key in a store with `seed`.
#[inline]
pub fn hash(seed: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed)
}

/// The part of a hash that slots hold.
#[inline]
pub const fn tag(hash: u64) -> u64 {
    hash & ((1 << TAG_BITS) - 1)
}

/// A slot that leads to a record; nonzero, since FOT indexes of data objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u64);

impl Slot {
    /// No slot.
    pub const EMPTY: Self = Self(0);

    /// A slot for the record at `offset` of the object that FOT entry `fot` names.
    pub fn new(hash: u64, fot: u32, offset: usize) -> Self {
        Self(u64::from(fot) << FOT_SHIFT | tag(hash) << TAG_SHIFT | offset as u64 & OFFSET_MASK)
    }

    /// Whether it leads nowhere.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The part of the hash that it holds.
    #[inline]
    #[must_use]
    pub const fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT & ((1 << TAG_BITS) - 1)
    }

    /// Whether there is one, of a key with bit `depth` of the hash: it goes elsewhere when a segment is split there.
    pub const fn is_of_half(self, depth: u64) -> bool {
        !self.is_empty() && self.tag() >> depth & 1 != 0
    }

    /// The bucket that it stands in, xor the one that its key belongs to: not 0 for a guest.
    #[inline]
    pub const fn beside(self) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "two bits")]
        let beside = (self.0 & GUEST) as usize;
        beside
    }

    /// The same slot, in a bucket `beside` its own.
    pub const fn in_bucket(self, beside: usize) -> Self {
        Self(self.0 & !GUEST | beside as u64 & GUEST)
    }

    /// Where it leads, as a pointer that stands in the index object.
    #[inline]
    pub fn pointer(self) -> PersistentPtr {
        #[allow(clippy::cast_possible_truncation, reason = "below 2^30")]
        let offset = self.offset() as u32;
        PersistentPtr::new(self.fot(), offset)
    }

    /// Offset of the record, a multiple of [`UNIT`].
    #[inline]
    pub const fn offset(self) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "below 2^30")]
        let offset = (self.0 & OFFSET_MASK) as usize;
        offset
    }

    /// The FOT entry of the object that it leads to.
    #[inline]
    #[must_use]
    pub const fn fot(self) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "12 bits")]
        let fot = (self.0 >> FOT_SHIFT) as u32;
        fot
    }
}

/// Slots of a bucket.
pub(crate) const SLOTS: usize = 7;

/// The tags of a bucket; or, as an iterator, some of its places: numbers from 1 to [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tags(pub u64);

/// Places in a bucket, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places(u8);

impl Tags {
    /// The tag of a key: none of a bucket's that is empty, nor what stands in front of them.
    #[inline]
    #[must_use]
    pub const fn fingerprint(hash: u64) -> u8 {
        hash.to_le_bytes()[6] | 0x80 // not to be taken for the first byte of the tags, or for an empty place
    }

    /// The places with the hash's fingerprint.
    #[inline]
    pub fn with_fingerprint(self, hash: u64) -> Places {
        Places(tags::equal_bytes(self.0, Self::fingerprint(hash)))
    }

    /// An empty place.
    #[inline]
    pub fn free_place(self) -> Option<usize> {
        Places(tags::equal_bytes(self.0, 0) & 0xfe).next()
    }

    /// These tags with a key's at `place`.
    pub const fn with(self, place: usize, hash: u64) -> Self {
        Self(self.without(place).0 | (Self::fingerprint(hash) as u64) << (place * 8))
    }

    /// These tags with that of another bucket's key at `place`.
    pub const fn with_tag_of(self, place: usize, other: Self, there: usize) -> Self {
        let tag = other.0 >> (there * 8) & 0xff;
        Self(self.without(place).0 | tag << (place * 8))
    }

    /// These tags with `place` empty.
    pub const fn without(self, place: usize) -> Self {
        Self(self.0 & !(0xff << (place * 8)))
    }

    /// Whether keys of this bucket may be in those beside it.
    #[inline]
    pub const fn sent_guests(self) -> bool {
        self.0 & 1 != 0
    }

    /// These tags, saying so or not.
    pub const fn with_sent_guests(self, sent: bool) -> Self {
        Self(self.0 & !1 | sent as u64)
    }
}

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let first = NonZero::new(self.0)?.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        Some(first as usize)
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
    /// Where the sequence stands in a record.
    pub(crate) const SEQUENCE_AT: usize = 16;
    /// Where the key's length does.
    const KEY_LEN_AT: usize = 4;

    /// The record at `offset`; `None` when the lengths do not fit the block, or that the object (somebody is changing it, or damage).
    #[inline]
    pub(crate) fn at(window: Window, offset: usize) -> Option<Self> {
        if offset < FIRST_OFFSET {
            return None; // page 0 is never mapped
        }
        let (first, second) = (window.load(offset), window.load(offset + 8));
        #[allow(clippy::cast_possible_truncation, reason = "the low halves are meant")]
        let (units, value_len) = (first as u32 as usize, second as u32 as usize);
        let key_len = (first >> 32) as usize;
        let block = units * UNIT;
        let fits = HEADER + key_len + value_len <= block && block <= DATA_END.saturating_sub(offset);
        fits.then_some(Self { window, offset, key_len, value_len })
    }

    /// The record at `offset`, if it has this key. Whether the lengths fit is not looked at ([`Record::fits`]): a value that is read while
    /// somebody changes it is not current afterwards.
    #[inline]
    pub(crate) fn with_key(window: Window, offset: usize, key: &[u8]) -> Option<Self> {
        if offset < FIRST_OFFSET {
            return None; // page 0 is never mapped
        }
        let lengths = window.load_at_any::<{ Self::KEY_LEN_AT }>(offset); // the value's behind the key's
        #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let (key_len, value_len) = (lengths as u32 as usize, (lengths >> 32) as usize);
        let record = Self { window, offset, key_len, value_len };
        (key_len == key.len() && same_bytes::<HEADER>(window, offset + value_len, key)).then_some(record)
    }

    /// Whether key and value lie in the block.
    pub(crate) fn fits(&self) -> bool {
        Self::at(self.window, self.offset)
            .is_some_and(|now| (now.key_len, now.value_len) == (self.key_len, self.value_len))
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
        self.window.load(self.offset + Self::SEQUENCE_AT)
    }
}

/// The first `count` bytes of a word, in memory order; the others 0. By a table, which has fewer instructions than a shift.
#[inline]
pub fn first_bytes(word: u64, count: usize) -> u64 {
    const MASKS: [u64; 8] =
        [0, 0xff, 0xffff, 0xff_ffff, 0xffff_ffff, 0xff_ffff_ffff, 0xffff_ffff_ffff, 0xff_ffff_ffff_ffff];
    MASKS.get(count).map_or(word, |mask| word & mask)
}

/// The check word of a record: never 0.
pub fn check(key_hash: u64, value: &[u8], key_len: usize, sequence: u64) -> u32 {
    let seed = key_hash ^ sequence.rotate_left(32) ^ (key_len as u64) << 48;
    let hash = xxh3_64_with_seed(value, seed) ^ (value.len() as u64);
    #[allow(clippy::cast_possible_truncation, reason = "folded")]
    let folded = (hash ^ hash >> 32) as u32;
    folded.max(1)
}

/// Stores byte sequences one after the other, by words, from `at`, a multiple of 8; `store` gets the place of each.
#[inline]
pub fn store_parts(at: usize, parts: [&[u8]; 2], mut store: impl FnMut(usize, u64)) {
    let (mut at, mut carry, mut bits) = (at, 0, 0_u32);
    for part in parts {
        let mut words = part.chunks_exact(8);
        for word in &mut words {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            let word = u64::from_le_bytes(bytes);
            store(at, carry | word << bits);
            carry = word.checked_shr(64 - bits).unwrap_or(0);
            at += 8;
        }
        let mut rest = words.remainder();
        if let Some((half, more)) = rest.split_first_chunk::<4>() {
            rest = more;
            let half = u64::from(u32::from_le_bytes(*half));
            carry |= half << bits;
            bits += 32;
            if bits >= 64 {
                store(at, carry);
                bits -= 64;
                (at, carry) = (at + 8, half.checked_shr(32 - bits).unwrap_or(0));
            }
        }
        for &byte in rest {
            carry |= u64::from(byte) << bits;
            bits += 8;
            if bits == 64 {
                store(at, carry);
                (at, carry, bits) = (at + 8, 0, 0);
            }
        }
    }
    if bits > 0 {
        store(at, carry);
    }
}

/// Compares bytes in an object, `AHEAD` after `at`, with ours, as few loads as there can be, and none past their end: that may be a line to wait for.
#[inline]
fn same_bytes<const AHEAD: usize>(window: Window, at: usize, bytes: &[u8]) -> bool {
    // Both ends, which overlap; then what is between.
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let ends = window.load_at_any::<AHEAD>(at) == u64::from_le_bytes(*first)
            && window.load_at_any::<AHEAD>(at + bytes.len() - 8) == u64::from_le_bytes(*last);
        let words = bytes.as_chunks().0;
        return ends
            && (8..)
                .step_by(8)
                .zip(words.iter().skip(1))
                .all(|(from, word)| window.load_at_any::<AHEAD>(at + from) == u64::from_le_bytes(*word));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return window.half_at_any::<AHEAD>(at) == u32::from_le_bytes(*first)
            && (bytes.len() == 4
                || window.half_at_any::<AHEAD>(at + bytes.len() - 4) == u32::from_le_bytes(*last));
    }
    let load = |at| window.byte(at + AHEAD).load(Ordering::Relaxed);
    bytes.iter().zip(at..).all(|(byte, at)| load(at) == *byte)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "tests of small numbers")]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use libtwz::prelude::*;

    #[test]
    fn slots_hold_what_they_were_made_of() {
        let slot = Slot::new(u64::MAX, OBJECTS_MAX, (1 << 30) - 16);
        assert_eq!((slot.tag(), slot.fot()), ((1 << 20) - 1, OBJECTS_MAX));
        assert_eq!(slot.pointer(), PersistentPtr::new(OBJECTS_MAX, (1 << 30) - 16));
        assert!(!Slot::new(0, 1, 0).is_empty());
        let guest = slot.in_bucket(2);
        assert!(guest.beside() == 2 && slot.beside() == 0 && guest.in_bucket(0) == slot);
        assert_eq!((guest.pointer(), guest.tag()), (slot.pointer(), slot.tag()));
    }

    #[test]
    fn tags_lead_to_the_slots_of_a_fingerprint() {
        let hash = |fingerprint: u64| fingerprint << 48 | 0xff << 56;
        let mut state = 88_172_645_463_325_252_u64;
        for _ in 0..20_000 {
            let (mut tags, mut model) = (Tags(0).with_sent_guests(state & 1 != 0), [None; SLOTS + 1]);
            for _ in 0..10 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let (place, fingerprint) = (1 + (state >> 8) as usize % SLOTS, state >> 20 & 3);
                if state & 3 == 0 {
                    (tags, model[place]) = (tags.without(place), None);
                } else {
                    (tags, model[place]) = (tags.with(place, hash(fingerprint)), Some(fingerprint));
                }
            }
            for fingerprint in 0..4 {
                let found: Vec<usize> = tags.with_fingerprint(hash(fingerprint)).collect();
                for (place, theirs) in model.iter().enumerate().skip(1) {
                    let right = *theirs == Some(fingerprint);
                    assert_eq!(found.contains(&place), right, "{tags:x?} {fingerprint} {place}");
                }
            }
            let free = (1..=SLOTS).find(|place| model[*place].is_none());
            assert_eq!(tags.free_place(), free, "{tags:x?}");
        }
    }

    #[test]
    fn parts_are_stored_one_after_the_other() {
        let object = ObjectBuilder::new().build([0_u64; 16]).unwrap();
        let (window, base) = (object.window(), object.global().offset() as usize);
        let text: [u8; 80] = core::array::from_fn(|i| i as u8 + 1);
        for first in 0..30 {
            for second in 0..30 {
                store_parts(base, [&text[..first], &text[first..first + second]], |at, word| {
                    window.store(at, word)
                });
                let mut back = [0; 80];
                window.read(base, &mut back);
                assert_eq!(back[..first + second], text[..first + second], "{first} {second}");
            }
        }
    }

    #[test]
    fn bytes_are_compared_at_any_place_and_length() {
        let object = ObjectBuilder::new().build([0_u64; 16]).unwrap();
        let (window, base) = (object.window(), object.global().offset() as usize);
        let text: [u8; 64] = core::array::from_fn(|i| i as u8 + 1);
        for start in 0..16 {
            for len in 0..40 {
                window.write(base + start, &text[..len]);
                assert!(same_bytes::<8>(window, base + start - 8, &text[..len]), "{start} {len}");
                for wrong in 0..len {
                    let mut other = text;
                    other[wrong] ^= 0x80;
                    assert!(
                        !same_bytes::<8>(window, base + start - 8, &other[..len]),
                        "{start} {len} {wrong}"
                    );
                }
            }
        }
    }

    #[test]
    fn lengths_past_the_objects_end_are_no_record() {
        let object = ObjectBuilder::new().build([0_u64; 16]).unwrap();
        let (window, offset) = (object.window(), (object.global().offset() as usize).next_multiple_of(UNIT));
        let lengths = |units: u32, key_len: u32, value_len: u32| {
            window.store(offset, u64::from(units) | u64::from(key_len) << 32);
            window.store(offset + 8, u64::from(value_len));
            Record::at(window, offset).map(|record| (record.key_len, record.value_len))
        };
        assert_eq!(lengths(4, 8, 32), Some((8, 32)));
        assert_eq!(lengths(4, 8, 33), None);
        let room = (DATA_END - offset) / UNIT;
        let last = (room * UNIT - HEADER) as u32;
        assert_eq!(lengths(room as u32, 0, last), Some((0, last as usize)));
        assert_eq!(lengths(room as u32 + 1, 0, last), None);
        assert_eq!(lengths(u32::MAX, 0, u32::MAX), None);
        assert_eq!(lengths(u32::MAX, u32::MAX, u32::MAX), None);
    }

    #[test]
    fn sizes_that_fit_nothing_are_refused() {
        assert_eq!(units_for(4, 4).unwrap(), 2);
        assert!(units_for(usize::MAX, 1).is_err());
    }
}
