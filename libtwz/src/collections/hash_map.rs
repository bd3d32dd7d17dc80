//! A hash map by linear hashing: it grows a few buckets at a time, so that no insert is long.
//!
//! ```text
//! table: segments of buckets, segment 0 has 4, segment k > 0 has 4 << (k-1); bucket i is in segment ilog2(i / 4) + 1
//! bucket: used bits 0–6, fingerprints in bytes 1–7 | overflow | 7 entries
//! ```
//! With `count` entries, there are `buckets` buckets; a key's bucket is its hash modulo the next power of two, or the half of
//! that where the bucket does not exist yet.

use super::{alone, damaged, expect_store, home_of, inside};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::Tx;
use crate::window::Window;
use core::mem::offset_of;

/// Entries of a bucket.
const ENTRIES: usize = 7;
/// Buckets in segment 0.
const FIRST: u64 = 4;
/// Segments: up to 2^34 buckets.
const SEGMENTS: usize = 33;
/// Entries per bucket, on average, at which another bucket is made.
const FULL: u64 = 4;
/// Most buckets that one insert makes.
const BATCH: u64 = 8;
/// Buckets chained to one before it is taken for a cycle.
const CHAIN_MAX: usize = 10_000;

/// A map from `K` to `V`; keys are equal when their bytes are.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct HashMap<K: Invariant + Copy, V: Invariant + Copy> {
    count: PCell<u64>,
    buckets: PCell<u64>,
    seed: PCell<u64>,
    segments: [InvPtr<Bucket<K, V>>; SEGMENTS],
}

#[derive(Debug, Invariant)]
#[repr(C)]
struct Bucket<K: Invariant + Copy, V: Invariant + Copy> {
    /// Byte 0: which entries are used; bytes 1–7: eight bits of their hashes.
    used: PCell<u64>,
    overflow: InvPtr<Bucket<K, V>>,
    /// Key and value side by side: an insert changes one line for them, and one for `used`.
    entries: [Entry<K, V>; ENTRIES],
}

#[derive(Debug, Invariant)]
#[repr(C)]
struct Entry<K: Invariant + Copy, V: Invariant + Copy> {
    key: PCell<K>,
    value: PCell<V>,
}

/// An entry's place.
struct Found<'a, K: Invariant + Copy, V: Invariant + Copy> {
    bucket: &'a Bucket<K, V>,
    entry: usize,
}

impl<K: Invariant + Copy, V: Invariant + Copy> Default for HashMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Invariant + Copy, V: Invariant + Copy> HashMap<K, V> {
    /// An empty map, with a seed of its own so that nobody can choose keys that collide.
    #[must_use]
    pub fn new() -> Self {
        use crate::sys::{Platform, Seam};
        let mut seed = [0; 8];
        Platform::random(&mut seed);
        Self {
            count: PCell::new(0),
            buckets: PCell::new(0),
            seed: PCell::new(u64::from_le_bytes(seed)),
            segments: [const { InvPtr::null() }; SEGMENTS],
        }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count.get()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hash(&self, key: &K) -> u64 {
        let mut hash = self.seed.get() ^ 0x9e37_79b9_7f4a_7c15;
        for_words(key, |word| {
            let product = u128::from(hash ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93_2545_f491_4f6c_dd1d);
            #[allow(clippy::cast_possible_truncation, reason = "both halves are folded in")]
            {
                hash = (product >> 64) as u64 ^ product as u64;
            }
        });
        hash
    }

    /// The number of the bucket for `hash` among `buckets`, at least 1.
    fn bucket_number(hash: u64, buckets: u64) -> u64 {
        let size = buckets.checked_next_power_of_two().unwrap_or(1 << 63); // damage may have made it anything
        let number = hash & (size - 1);
        if number < buckets { number } else { number & (size / 2 - 1) }
    }

    #[inline]
    fn bucket(&self, number: u64) -> Result<&Bucket<K, V>> {
        let (segment, index) = split(number);
        let first = self.segments.get(segment).ok_or_else(|| damaged(self, "fewer buckets"))?;
        if first.is_null() {
            return Err(damaged(first, "a segment for each bucket"));
        }
        let raw = first.raw();
        let offset = u64::from(raw.offset()) + index * size_of::<Bucket<K, V>>() as u64;
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        crate::ptr::at(home_of(first)?, twz_abi::PersistentPtr::new(raw.index(), offset))
    }

    /// The bucket where a key with this hash is looked for first; `None` while there is none at all.
    #[inline]
    fn first_bucket(&self, hash: u64) -> Result<Option<&Bucket<K, V>>> {
        let buckets = self.buckets.get();
        if buckets == 0 {
            return Ok(None);
        }
        self.bucket(Self::bucket_number(hash, buckets)).map(Some)
    }

    #[inline]
    fn find(&self, key: &K, hash: u64) -> Result<Option<Found<'_, K, V>>> {
        let Some(first) = self.first_bucket(hash)? else { return Ok(None) };
        Self::find_from(first, key, hash)
    }

    /// [`HashMap::find`] in a bucket and those chained to it.
    #[inline]
    fn find_from<'a>(first: &'a Bucket<K, V>, key: &K, hash: u64) -> Result<Option<Found<'a, K, V>>> {
        let mut bucket = first;
        for _ in 0..CHAIN_MAX {
            let used = bucket.used.get();
            let mut candidates = candidates(used, hash);
            while candidates != 0 {
                let entry = candidates.trailing_zeros() as usize;
                if same(&bucket.entries[entry].key.get(), key) {
                    return Ok(Some(Found { bucket, entry }));
                }
                candidates &= candidates - 1;
            }
            match bucket.overflow.get()? {
                Some(next) => bucket = next,
                None => return Ok(None),
            }
        }
        Err(damaged(bucket, "a chain of buckets without a cycle"))
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`Error::BadPointer`], [`Error::Damaged`].
    #[inline]
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        let found = self.find(key, self.hash(key))?;
        Ok(found.map(|found| found.bucket.entries[found.entry].value.get()))
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// As [`HashMap::get`].
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Gives `key` a value, durably; returns the one before.
    ///
    /// # Errors
    /// As [`HashMap::get`]; [`Error::OutOfSpace`], [`Error::Busy`].
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        let hash = self.hash(&key);
        if self.is_full() {
            alone(self, |tx| if self.is_full() { self.add_buckets(tx) } else { Ok(()) })?; // nothing is to see it before it ends
        }
        self.expect_change(hash); // before the lock: fetching the bucket takes as long as the last transaction's fence
        alone(self, |tx| self.do_insert(tx, &key, value, hash))
    }

    /// Gives `key` a value as a part of `tx`.
    ///
    /// # Errors
    /// As [`HashMap::insert`].
    pub fn insert_in(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        inside(tx, |tx| self.do_insert(tx, &key, value, self.hash(&key)))
    }

    fn is_full(&self) -> bool {
        self.count.get() >= self.buckets.get().saturating_mul(FULL)
    }

    /// Has the bucket for `hash` fetched. What is read may be changing: it is only a hint.
    #[inline]
    fn expect_change(&self, hash: u64) {
        if let Ok(Some(bucket)) = self.first_bucket(hash) {
            expect_store(bucket);
        }
    }

    fn do_insert(&self, tx: &Tx, key: &K, value: V, hash: u64) -> Result<Option<V>> {
        let mut first = self.first_bucket(hash)?;
        if let Some(bucket) = first
            && let Some(found) = Self::find_from(bucket, key, hash)?
        {
            let place = &found.bucket.entries[found.entry].value;
            let before = place.get();
            tx.put(place, value)?;
            return Ok(Some(before));
        }
        if self.is_full() {
            self.add_buckets(tx)?;
            tx.apply()?; // what follows must see them
            first = self.first_bucket(hash)?;
        }
        let first = first.ok_or_else(|| damaged(&self.buckets, "a bucket"))?;
        self.put_entry(tx, first, key, value, hash)?;
        tx.put(&self.count, self.count.get().wrapping_add(1))?;
        Ok(None)
    }

    /// Puts an entry that is not there into a bucket or its chain.
    fn put_entry(&self, tx: &Tx, first: &Bucket<K, V>, key: &K, value: V, hash: u64) -> Result<()> {
        let mut bucket = first;
        for _ in 0..CHAIN_MAX {
            let used = bucket.used.get();
            let entry = (!used).trailing_zeros() as usize;
            if entry < ENTRIES {
                bucket.put_entry(tx, entry, *key, value)?;
                return tx.put(&bucket.used, with_entry(used, entry, hash));
            }
            match bucket.overflow.get()? {
                Some(next) => bucket = next,
                None => {
                    let mut new = Bucket::blank(*key, value);
                    new.used = PCell::new(with_entry(0, 0, hash));
                    let new = tx.alloc_put(home_of(self)?, new)?;
                    return tx.put_ptr(&bucket.overflow, Some(new));
                }
            }
        }
        Err(damaged(first, "a chain of buckets without a cycle"))
    }

    /// Makes more buckets, an eighth more but at most [`BATCH`], so that one fence serves them all.
    #[cold]
    fn add_buckets(&self, tx: &Tx) -> Result<()> {
        let buckets = self.buckets.get();
        if buckets > FIRST << SEGMENTS {
            return Err(damaged(&self.buckets, "fewer buckets"));
        }
        let (segment, _) = split(buckets);
        let place = self.segments.get(segment).ok_or(Error::TooLarge { bytes: buckets })?;
        if place.is_null() {
            self.add_segment(tx, segment)?;
            tx.apply()?;
        }
        if buckets == 0 {
            let first = self.bucket(0)?;
            first.empty();
            first.filled(tx, 0)?;
            return tx.put(&self.buckets, 1);
        }
        // Up to the next power of two, the old buckets of a batch are all different and none is new.
        let end = (buckets + (buckets / 8).clamp(1, BATCH)).min((buckets + 1).next_power_of_two());
        for number in buckets..end {
            // It takes over from the bucket with the same number without its highest bit.
            let old = self.bucket(number & !(1 << number.ilog2()))?;
            self.split_bucket(tx, old, self.bucket(number)?, number + 1)?;
        }
        tx.put(&self.buckets, end)
    }

    fn split_bucket(&self, tx: &Tx, old: &Bucket<K, V>, new: &Bucket<K, V>, buckets: u64) -> Result<()> {
        new.empty();
        let mut moved = 0;
        let mut too_many = alloc::vec::Vec::new();
        let mut bucket = old;
        for _ in 0..CHAIN_MAX {
            let used = bucket.used.get();
            let mut left = used;
            for entry in (0..ENTRIES).filter(|entry| is_used(used, *entry)) {
                let (key, value) = (bucket.entries[entry].key.get(), bucket.entries[entry].value.get());
                let hash = self.hash(&key);
                if Self::bucket_number(hash, buckets) == buckets - 1 {
                    left &= !(1 << entry);
                    if moved < ENTRIES {
                        new.fill(moved, key, value, hash);
                        moved += 1;
                    } else {
                        too_many.push((key, value, hash));
                    }
                }
            }
            if left != used {
                tx.put(&bucket.used, left)?;
            }
            match bucket.overflow.get()? {
                Some(next) => bucket = next,
                None => {
                    new.filled(tx, moved)?;
                    return too_many.into_iter().try_for_each(|(key, value, hash)| {
                        self.put_entry(tx, new, &key, value, hash)?;
                        tx.apply() // the next one must see it
                    });
                }
            }
        }
        Err(damaged(old, "a chain of buckets without a cycle"))
    }

    fn segment_bytes(segment: usize) -> usize {
        let count = if segment == 0 { FIRST } else { FIRST << (segment - 1) };
        usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(size_of::<Bucket<K, V>>())
    }

    fn add_segment(&self, tx: &Tx, segment: usize) -> Result<()> {
        let bytes = Self::segment_bytes(segment);
        let home = home_of(self)?;
        // Its buckets are filled as they come into use ([`Bucket::empty`]).
        let address = tx.alloc_unfilled(home, bytes, align_of::<Bucket<K, V>>())?;
        let place = &self.segments[segment];
        let pointer =
            crate::translate::persistent(Window::around(core::ptr::from_ref(place).addr())?, address)?;
        tx.put_value(core::ptr::from_ref(place).addr(), &pointer.0)
    }

    /// Takes `key` out, durably; returns its value.
    ///
    /// # Errors
    /// As [`HashMap::get`]; [`Error::Busy`].
    pub fn remove(&self, key: &K) -> Result<Option<V>> {
        alone(self, |tx| self.do_remove(tx, key))
    }

    /// Takes `key` out as a part of `tx`.
    ///
    /// # Errors
    /// As [`HashMap::remove`].
    pub fn remove_in(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        inside(tx, |tx| self.do_remove(tx, key))
    }

    fn do_remove(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        let Some(found) = self.find(key, self.hash(key))? else { return Ok(None) };
        tx.put(&found.bucket.used, found.bucket.used.get() & !(1 << found.entry))?;
        tx.put(&self.count, self.count.get().saturating_sub(1))?;
        Ok(Some(found.bucket.entries[found.entry].value.get()))
    }

    /// Takes everything out and gives all memory back, durably, all or nothing.
    ///
    /// # Errors
    /// As [`HashMap::remove`].
    pub fn clear(&self) -> Result<()> {
        alone(self, |tx| self.do_clear(tx))
    }

    /// Takes everything out as a part of `tx`.
    ///
    /// # Errors
    /// As [`HashMap::clear`].
    pub fn clear_in(&self, tx: &Tx) -> Result<()> {
        inside(tx, |tx| self.do_clear(tx))
    }

    fn do_clear(&self, tx: &Tx) -> Result<()> {
        for number in 0..self.buckets.get() {
            let first = self.bucket(number)?;
            let mut at = first.overflow.get()?;
            for _ in 0..CHAIN_MAX {
                let Some(bucket) = at else { break };
                at = bucket.overflow.get()?;
                // SAFETY: allocated by `put_entry`; the segment that leads to it goes in the same transaction.
                unsafe { tx.free(bucket) }?;
            }
            if at.is_some() {
                return Err(damaged(first, "a chain of buckets without a cycle"));
            }
        }
        for (segment, place) in self.segments.iter().enumerate().filter(|(_, place)| !place.is_null()) {
            let address = crate::translate::lea(home_of(place)?, place.raw())?;
            // SAFETY: allocated by `add_segment` with this size; the pointer goes in the same transaction.
            unsafe { tx.free_raw(address, Self::segment_bytes(segment), align_of::<Bucket<K, V>>()) }?;
            tx.put_ptr(place, None)?;
        }
        tx.put(&self.buckets, 0)?;
        tx.put(&self.count, 0)
    }

    /// All entries, in no order; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<(K, V)>> {
        let mut number = 0;
        let mut at: Option<&Bucket<K, V>> = None;
        let mut entry = 0;
        let mut steps = 0_u64;
        let mut broken = false;
        core::iter::from_fn(move || {
            loop {
                if broken {
                    return None;
                }
                let Some(bucket) = at else {
                    if number >= self.buckets.get() {
                        return None;
                    }
                    match self.bucket(number) {
                        Ok(bucket) => at = Some(bucket),
                        Err(error) => {
                            broken = true;
                            return Some(Err(error));
                        }
                    }
                    (number, entry, steps) = (number + 1, 0, 0);
                    continue;
                };
                if entry < ENTRIES {
                    entry += 1;
                    if is_used(bucket.used.get(), entry - 1) {
                        return Some(Ok((
                            bucket.entries[entry - 1].key.get(),
                            bucket.entries[entry - 1].value.get(),
                        )));
                    }
                    continue;
                }
                steps += 1;
                entry = 0;
                let next = bucket.overflow.get();
                match next {
                    Ok(next) if steps < CHAIN_MAX as u64 => at = next,
                    Ok(_) => {
                        broken = true;
                        return Some(Err(damaged(bucket, "a chain of buckets without a cycle")));
                    }
                    Err(error) => {
                        broken = true;
                        return Some(Err(error));
                    }
                }
            }
        })
    }
}

impl<K: Invariant + Copy, V: Invariant + Copy> Bucket<K, V> {
    /// An unused bucket; its places hold copies of an entry.
    fn blank(key: K, value: V) -> Self {
        Self {
            used: PCell::new(0),
            overflow: InvPtr::null(),
            entries: core::array::from_fn(|_| Entry { key: PCell::new(key), value: PCell::new(value) }),
        }
    }

    /// Begins to fill a bucket that no reader knows of yet, in place: nothing of it need be put back if the transaction fails.
    fn empty(&self) {
        self.used.set_without_log(0);
        self.overflow.set_raw(twz_abi::PersistentPtr::NULL);
    }

    /// Fills an entry of such a bucket.
    #[inline]
    fn fill(&self, entry: usize, key: K, value: V, hash: u64) {
        self.entries[entry].key.set_without_log(key);
        self.entries[entry].value.set_without_log(value);
        self.used.set_without_log(with_entry(self.used.get(), entry, hash));
    }

    /// Ends that: what stands in its first `count` entries now becomes durable with the transaction.
    fn filled(&self, tx: &Tx, count: usize) -> Result<()> {
        let bytes = offset_of!(Self, entries) + count * size_of::<Entry<K, V>>();
        tx.wrote(core::ptr::from_ref(self).addr(), bytes)
    }

    /// Key and value in one piece.
    #[inline]
    fn put_entry(&self, tx: &Tx, entry: usize, key: K, value: V) -> Result<()> {
        let place = core::ptr::from_ref(&self.entries[entry]).addr();
        tx.put_value(place, &Entry { key: PCell::new(key), value: PCell::new(value) })
    }
}

/// Segment and index in it of a bucket.
fn split(number: u64) -> (usize, u64) {
    if number < FIRST {
        return (0, number);
    }
    let level = (number / FIRST).ilog2();
    (level as usize + 1, number - (FIRST << level))
}

const fn fingerprint(hash: u64) -> u64 {
    hash >> 56
}

const fn is_used(used: u64, entry: usize) -> bool {
    used >> entry & 1 != 0
}

/// The used entries whose fingerprint is that of `hash`, as bits; others may be among them, rarely.
const fn candidates(used: u64, hash: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    // A byte of `unlike` is 0 where the fingerprints agree; the subtraction borrows from exactly those (and from bytes of 1 above).
    let unlike = used ^ (fingerprint(hash) * LOW);
    let equal = unlike.wrapping_sub(LOW) & !unlike & HIGH;
    // Byte i + 1 is entry i's: its top bit goes to bit i.
    let bits = (equal >> 15).wrapping_mul(0x0002_0408_1020_4081) >> 42;
    bits & used & 0x7f
}

const fn with_entry(used: u64, entry: usize, hash: u64) -> u64 {
    let shift = 8 + entry * 8;
    used & !(0xff << shift) | fingerprint(hash) << shift | 1 << entry
}

/// Calls `with` for the bytes of a value, by words.
fn for_words<T: Invariant + Copy>(value: &T, mut with: impl FnMut(u64)) {
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

fn same<T: Invariant + Copy>(a: &T, b: &T) -> bool {
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
