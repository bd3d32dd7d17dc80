//! Buckets, and how their entries are told apart.

use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tags;
use crate::tx::{Puts, Tx, bytes_of};
use core::mem::offset_of;
use core::num::NonZero;
use core::slice::from_ref;

/// Entries of a bucket.
pub(super) const ENTRIES: usize = 7;

#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Bucket<K: Invariant + Copy, V: Invariant + Copy> {
    /// [`Tags`].
    pub(super) tags: PCell<u64>,
    pub(super) overflow: InvPtr<Bucket<K, V>>,
    /// Key and value side by side: an insert changes one line for them, and one for the tags. Between and behind those that are not of one
    /// size are bytes that nobody reads or writes.
    pub(super) entries: [Entry<K, V>; ENTRIES],
}

#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Entry<K: Invariant + Copy, V: Invariant + Copy> {
    pub(super) key: PCell<K>,
    pub(super) value: PCell<V>,
}

impl<K: Invariant + Copy, V: Invariant + Copy> Bucket<K, V> {
    /// Begins to fill a bucket that no reader knows of yet, in place: nothing of it need be put back if the transaction fails.
    pub(super) fn empty(&self) {
        self.tags.set_without_log(0);
        self.overflow.set_raw(twz_abi::PersistentPtr::NULL);
    }

    /// Fills an entry of such a bucket.
    #[inline]
    pub(super) fn fill(&self, entry: usize, key: K, value: V, hash: u64) {
        self.entries[entry].key.set_without_log(key);
        self.entries[entry].value.set_without_log(value);
        self.tags.set_without_log(Tags(self.tags.get()).with(entry, hash).0);
    }

    /// Ends that: what stands in its first `count` entries now becomes durable with the transaction.
    pub(super) fn filled(&self, tx: &Tx, count: usize) -> Result<()> {
        let bytes = offset_of!(Self, entries) + count * size_of::<Entry<K, V>>();
        tx.filled(core::ptr::from_ref(self).addr(), bytes)
    }

    /// Puts an entry there, key and value in one piece, and its tag.
    #[inline(always)]
    pub(super) fn put_entry(
        &self,
        puts: &mut Puts<'_>,
        entry: usize,
        key: K,
        value: V,
        hash: u64,
    ) -> Result<()> {
        let place = &self.entries[entry];
        if const { size_of::<Entry<K, V>>() == size_of::<K>() + size_of::<V>() } {
            let new = Entry { key: PCell::new(key), value: PCell::new(value) };
            // SAFETY: key and value fill it, and have no padding themselves, so all of its bytes are initialised.
            let bytes = unsafe { core::slice::from_raw_parts((&raw const new).cast(), size_of_val(&new)) };
            puts.bytes(core::ptr::from_ref(place).addr(), bytes)?;
        } else {
            puts.cell(&place.key, key)?;
            puts.cell(&place.value, value)?;
        }
        puts.halves(&self.tags, Tags(self.tags.get()).with(entry, hash).0)
    }
}

/// Byte n + 1 is entry n's: 0 for an unused one, else a part of its key's hash, so that an insert changes half of the word. Byte 0 is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tags(pub(super) u64);

impl Tags {
    const fn fingerprint(hash: u64) -> u8 {
        let bits = hash.to_le_bytes()[7];
        if bits == 0 { 1 } else { bits }
    }

    /// The entries with the fingerprint of `hash`.
    #[inline]
    pub(super) fn candidates(self, hash: u64) -> impl Iterator<Item = usize> {
        let mut found = tags::equal_bytes(self.0, Self::fingerprint(hash)) >> 1;
        core::iter::from_fn(move || {
            let first = NonZero::new(found)?.trailing_zeros() as usize;
            found &= found - 1;
            Some(first)
        })
    }

    pub(super) const fn is_used(self, entry: usize) -> bool {
        self.0 >> (8 + entry * 8) & 0xff != 0
    }

    /// The first unused entry.
    #[inline]
    pub(super) fn unused(self) -> Option<usize> {
        Some(NonZero::new(tags::equal_bytes(self.0, 0) >> 1)?.trailing_zeros() as usize)
    }

    pub(super) const fn with(self, entry: usize, hash: u64) -> Self {
        Self(self.without(entry).0 | (Self::fingerprint(hash) as u64) << (8 + entry * 8))
    }

    pub(super) const fn without(self, entry: usize) -> Self {
        Self(self.0 & !(0xff << (8 + entry * 8)))
    }
}

/// Calls `with` for the bytes of a value, by words; a shorter last one is filled up with zeros.
#[inline(always)]
pub(super) fn for_words<T: Invariant + Copy>(value: &T, mut with: impl FnMut(u64)) {
    let (words, rest) = bytes_of(from_ref(value)).as_chunks::<8>();
    for word in words {
        with(u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        with(u64::from_le_bytes(word));
    }
}

/// Whether two values have the same bytes.
#[inline(always)]
pub(in crate::collections) fn same<T: Invariant + Copy>(a: &T, b: &T) -> bool {
    bytes_of(from_ref(a)) == bytes_of(from_ref(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// Few fingerprints, 0 and 1 among them.
        #[test]
        fn tags_tell_of_each_entry(
            hashes in prop::collection::vec((0..4_u64).prop_map(|hash| hash << 56), ENTRIES),
            used in prop::collection::vec(any::<bool>(), ENTRIES),
        ) {
            let mut tags = Tags(0);
            for (entry, hash) in hashes.iter().enumerate() {
                tags = tags.with(entry, *hash);
            }
            prop_assert_eq!(tags.unused(), None);
            for entry in (0..ENTRIES).filter(|entry| !used[*entry]) {
                tags = tags.without(entry);
            }
            prop_assert_eq!(tags.unused(), (0..ENTRIES).find(|entry| !used[*entry]));
            prop_assert!((0..ENTRIES).all(|entry| tags.is_used(entry) == used[entry]));
            let wanted = hashes[0];
            let alike = |entry: &usize| used[*entry] && Tags::fingerprint(hashes[*entry]) == Tags::fingerprint(wanted);
            let expected: Vec<usize> = (0..ENTRIES).filter(alike).collect();
            prop_assert_eq!(tags.candidates(wanted).collect::<Vec<_>>(), expected);
        }
    }
}
