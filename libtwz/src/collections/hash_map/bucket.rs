//! Buckets, and how their entries are told apart.

use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::Tx;
use core::mem::offset_of;

/// Entries of a bucket.
pub(super) const ENTRIES: usize = 7;

#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Bucket<K: Invariant + Copy, V: Invariant + Copy> {
    /// Byte 0: which entries are used; bytes 1–7: eight bits of their hashes.
    pub(super) used: PCell<u64>,
    pub(super) overflow: InvPtr<Bucket<K, V>>,
    /// Key and value side by side: an insert changes one line for them, and one for `used`.
    pub(super) entries: [Entry<K, V>; ENTRIES],
}

#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Entry<K: Invariant + Copy, V: Invariant + Copy> {
    pub(super) key: PCell<K>,
    pub(super) value: PCell<V>,
}

impl<K: Invariant + Copy, V: Invariant + Copy> Bucket<K, V> {
    /// An unused bucket; its places hold copies of an entry.
    pub(super) fn blank(key: K, value: V) -> Self {
        Self {
            used: PCell::new(0),
            overflow: InvPtr::null(),
            entries: core::array::from_fn(|_| Entry { key: PCell::new(key), value: PCell::new(value) }),
        }
    }

    /// Begins to fill a bucket that no reader knows of yet, in place: nothing of it need be put back if the transaction fails.
    pub(super) fn empty(&self) {
        self.used.set_without_log(0);
        self.overflow.set_raw(twz_abi::PersistentPtr::NULL);
    }

    /// Fills an entry of such a bucket.
    #[inline]
    pub(super) fn fill(&self, entry: usize, key: K, value: V, hash: u64) {
        self.entries[entry].key.set_without_log(key);
        self.entries[entry].value.set_without_log(value);
        self.used.set_without_log(with_entry(self.used.get(), entry, hash));
    }

    /// Ends that: what stands in its first `count` entries now becomes durable with the transaction.
    pub(super) fn filled(&self, tx: &Tx, count: usize) -> Result<()> {
        let bytes = offset_of!(Self, entries) + count * size_of::<Entry<K, V>>();
        tx.wrote(core::ptr::from_ref(self).addr(), bytes)
    }

    /// Key and value in one piece.
    #[inline]
    pub(super) fn put_entry(&self, tx: &Tx, entry: usize, key: K, value: V) -> Result<()> {
        let place = core::ptr::from_ref(&self.entries[entry]).addr();
        tx.put_value(place, &Entry { key: PCell::new(key), value: PCell::new(value) })
    }
}

pub(super) const fn fingerprint(hash: u64) -> u64 {
    hash >> 56
}

pub(super) const fn is_used(used: u64, entry: usize) -> bool {
    used >> entry & 1 != 0
}

/// The used entries whose fingerprint is that of `hash`, as bits; others may be among them, rarely.
pub(super) const fn candidates(used: u64, hash: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    // A byte of `unlike` is 0 where the fingerprints agree; the subtraction borrows from exactly those (and from bytes of 1 above).
    let unlike = used ^ (fingerprint(hash) * LOW);
    let equal = unlike.wrapping_sub(LOW) & !unlike & HIGH;
    // Byte i + 1 is entry i's: its top bit goes to bit i.
    let bits = (equal >> 15).wrapping_mul(0x0002_0408_1020_4081) >> 42;
    bits & used & 0x7f
}

pub(super) const fn with_entry(used: u64, entry: usize, hash: u64) -> u64 {
    let shift = 8 + entry * 8;
    used & !(0xff << shift) | fingerprint(hash) << shift | 1 << entry
}

/// Calls `with` for the bytes of a value, by words.
pub(super) fn for_words<T: Invariant + Copy>(value: &T, mut with: impl FnMut(u64)) {
    let () = T::NO_PADDING;
    let from = core::ptr::from_ref(value).cast::<u8>();
    for at in (0..size_of::<T>()).step_by(8) {
        let mut word = [0_u8; 8];
        let count = (size_of::<T>() - at).min(8);
        // SAFETY: T has no padding, so its bytes are initialised; at + count <= its size.
        unsafe { core::ptr::copy_nonoverlapping(from.wrapping_add(at), word.as_mut_ptr(), count) };
        with(u64::from_le_bytes(word));
    }
}

pub(super) fn same<T: Invariant + Copy>(a: &T, b: &T) -> bool {
    let mut equal = true;
    let mut words: [u64; 4] = [0; 4];
    if size_of::<T>() <= 32 {
        let mut i = 0;
        for_words(a, |word| {
            words[i] = word;
            i += 1;
        });
        i = 0;
        for_words(b, |word| {
            equal &= words[i] == word;
            i += 1;
        });
        return equal;
    }
    let mut all = alloc::vec::Vec::new();
    for_words(a, |word| all.push(word));
    let mut i = 0;
    for_words(b, |word| {
        equal &= all[i] == word;
        i += 1;
    });
    equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_the_used_entries_with_the_fingerprint() {
        let mut state = 88_172_645_463_325_252_u64;
        for _ in 0..100_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (mut used, hash) = (0, state.rotate_left(7) & 3 << 56);
            for entry in (0..ENTRIES).filter(|entry| state >> entry & 1 != 0) {
                used = with_entry(used, entry, state >> (entry * 2) & 3 << 56);
            }
            let found = candidates(used, hash);
            for entry in 0..ENTRIES {
                let equal = is_used(used, entry) && used >> (8 + entry * 8) & 0xff == fingerprint(hash);
                // One too many may be found above one that is right, never one too few.
                assert!(!equal || found >> entry & 1 != 0, "{used:#x} {hash:#x}");
            }
            assert_eq!(found & !used, 0);
        }
    }
}
