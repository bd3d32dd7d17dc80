//! A hash map by linear hashing: it grows a few buckets at a time, so that no insert is long.
//!
//! ```text
//! table: segments of buckets, segment 0 has 4, segment k > 0 has 4 << (k-1); bucket i is in segment ilog2(i / 4) + 1
//! bucket: tags | overflow | 7 entries; byte n of the tags is of entry n - 1: 0 for an unused one, else a part of the key's hash
//! ```
//! With `count` entries, there are `buckets` buckets; a key's bucket is its hash modulo the next power of two, or the half of
//! that where the bucket does not exist yet.
//!
//! Keys and values are `Copy`: buckets are split, and what they hold moves. Keys and values that own
//! memory, or must stay where they are – texts, other collections –, are for [`super::owned::HashMap`].

mod bucket;
mod iter;
mod remove;
mod split;

pub use self::iter::HashMapIter;

pub(super) use self::bucket::same;

use self::bucket::{Bucket, Tags, for_words};
use super::{alone, damaged, expect_store, home_of, inside};
use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::{Ahead, Tx};

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
#[derive(Invariant)]
#[repr(C)]
#[invariant(version = 2)]
pub struct HashMap<K: Invariant + Copy, V: Invariant + Copy> {
    count: PCell<u64>,
    buckets: PCell<u64>,
    seed: PCell<u64>,
    segments: [InvPtr<Bucket<K, V>>; SEGMENTS],
}

/// An entry's place.
struct Found<'a, K: Invariant + Copy, V: Invariant + Copy> {
    bucket: &'a Bucket<K, V>,
    entry: usize,
}

/// A bucket and its unused entry; or the last bucket of a chain that is full.
type Room<'a, K, V> = core::result::Result<(&'a Bucket<K, V>, usize), &'a Bucket<K, V>>;

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

    #[inline(always)]
    fn bucket(&self, number: u64) -> Result<&Bucket<K, V>> {
        let (segment, index) = segment_of(number);
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
            for entry in Tags(bucket.tags.get()).candidates(hash) {
                if same(&bucket.entries[entry].key.get(), key) {
                    return Ok(Some(Found { bucket, entry }));
                }
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
    /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
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

    map_methods!(Iterator);

    /// Gives `key` a value, durably; returns the one before.
    ///
    /// # Errors
    /// As [`HashMap::get`]; [`crate::Error::OutOfSpace`], [`crate::Error::Busy`].
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        let hash = self.hash(&key);
        if self.is_full() {
            alone(self, |tx| if self.is_full() { self.add_buckets(tx) } else { Ok(()) })?; // nothing is to see it before it ends
        }
        // Found before the lock is taken, and fetched meanwhile: that takes as long as the last transaction's fence.
        let ahead = Ahead::of(home_of(self)?);
        let found = self.first_bucket(hash).ok().flatten();
        if let Some(bucket) = found {
            expect_store(bucket);
        }
        ahead.run(|tx, is_as_found| {
            let first = if is_as_found { found } else { self.first_bucket(hash)? };
            self.insert_into(tx, first, &key, value, hash)
        })
    }

    /// Gives `key` a value as a part of `tx`.
    ///
    /// # Errors
    /// As [`HashMap::insert`].
    pub fn insert_in(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        inside(tx, |tx| self.put_entry_in(tx, key, value))
    }

    /// An insert as a step of a change.
    pub(super) fn put_entry_in(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        let hash = self.hash(&key);
        self.insert_into(tx, self.first_bucket(hash)?, &key, value, hash)
    }

    fn is_full(&self) -> bool {
        self.count.get() >= self.buckets.get().saturating_mul(FULL)
    }

    /// Inserts into the bucket where a key with this hash is looked for first.
    fn insert_into<'a>(
        &'a self,
        tx: &Tx,
        mut first: Option<&'a Bucket<K, V>>,
        key: &K,
        value: V,
        hash: u64,
    ) -> Result<Option<V>> {
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
        let room = Self::room_from(first)?;
        if let Ok((bucket, entry)) = room {
            tx.puts(|puts| {
                bucket.put_entry(puts, entry, *key, value, hash)?;
                puts.halves(&self.count, self.count.get().wrapping_add(1))
            })?;
            return Ok(None);
        }
        self.put_entry(tx, room, key, value, hash)?;
        tx.put_halves(&self.count, self.count.get().wrapping_add(1))?;
        Ok(None)
    }

    /// The first unused entry of a bucket and those chained to it; else the last of them.
    #[inline]
    fn room_from(first: &Bucket<K, V>) -> Result<Room<'_, K, V>> {
        let mut bucket = first;
        for _ in 0..CHAIN_MAX {
            if let Some(entry) = Tags(bucket.tags.get()).unused() {
                return Ok(Ok((bucket, entry)));
            }
            match bucket.overflow.get()? {
                Some(next) => bucket = next,
                None => return Ok(Err(bucket)),
            }
        }
        Err(damaged(first, "a chain of buckets without a cycle"))
    }

    /// Puts an entry that is not there into a bucket, or a new one chained to it.
    fn put_entry(&self, tx: &Tx, room: Room<'_, K, V>, key: &K, value: V, hash: u64) -> Result<()> {
        match room {
            Ok((bucket, entry)) => tx.puts(|puts| bucket.put_entry(puts, entry, *key, value, hash)),
            Err(last) => {
                let bytes = (size_of::<Bucket<K, V>>(), align_of::<Bucket<K, V>>());
                let new = tx.alloc_unfilled(home_of(self)?, bytes.0, bytes.1)?;
                let new: &Bucket<K, V> = crate::ptr::at_address(new)?;
                tx.put_ptr(&new.overflow, None)?;
                tx.put(&new.tags, Tags(0).with(0, hash).0)?;
                tx.put(&new.entries[0].key, *key)?;
                tx.put(&new.entries[0].value, value)?;
                tx.put_ptr(&last.overflow, Some(new))
            }
        }
    }
}

/// Segment and index in it of a bucket.
#[inline(always)]
fn segment_of(number: u64) -> (usize, u64) {
    if number < FIRST {
        return (0, number);
    }
    let level = (number / FIRST).ilog2();
    (level as usize + 1, number - (FIRST << level))
}
