//! More buckets.

use super::bucket::{Bucket, ENTRIES, Tags};
use super::{BATCH, CHAIN_MAX, FIRST, HashMap, SEGMENTS, segment_of};
use crate::collections::{damaged, home_of};
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::tx::Tx;
use crate::window::Window;

impl<K: Invariant + Copy, V: Invariant + Copy> HashMap<K, V> {
    /// Makes more buckets, an eighth more but at most [`BATCH`], so that one fence serves them all.
    #[cold]
    pub(super) fn add_buckets(&self, tx: &Tx) -> Result<()> {
        let buckets = self.buckets.get();
        if buckets > FIRST << SEGMENTS {
            return Err(damaged(&self.buckets, "fewer buckets"));
        }
        let (segment, _) = segment_of(buckets);
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

    pub(super) fn split_bucket(
        &self,
        tx: &Tx,
        old: &Bucket<K, V>,
        new: &Bucket<K, V>,
        buckets: u64,
    ) -> Result<()> {
        new.empty();
        let mut moved = 0;
        let mut too_many = alloc::vec::Vec::new();
        let mut bucket = old;
        for _ in 0..CHAIN_MAX {
            let tags = Tags(bucket.tags.get());
            let mut left = tags;
            for entry in (0..ENTRIES).filter(|entry| tags.is_used(*entry)) {
                let (key, value) = (bucket.entries[entry].key.get(), bucket.entries[entry].value.get());
                let hash = self.hash(&key);
                if Self::bucket_number(hash, buckets) == buckets - 1 {
                    left = left.without(entry);
                    if moved < ENTRIES {
                        new.fill(moved, key, value, hash);
                        moved += 1;
                    } else {
                        too_many.push((key, value, hash));
                    }
                }
            }
            if left != tags {
                tx.put_halves(&bucket.tags, left.0)?;
            }
            match bucket.overflow.get()? {
                Some(next) => bucket = next,
                None => {
                    new.filled(tx, moved)?;
                    return too_many.into_iter().try_for_each(|(key, value, hash)| {
                        self.put_entry(tx, Self::room_from(new)?, &key, value, hash)?;
                        tx.apply() // the next one must see it
                    });
                }
            }
        }
        Err(damaged(old, "a chain of buckets without a cycle"))
    }

    pub(super) fn segment_bytes(segment: usize) -> usize {
        let count = if segment == 0 { FIRST } else { FIRST << (segment - 1) };
        usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(size_of::<Bucket<K, V>>())
    }

    pub(super) fn add_segment(&self, tx: &Tx, segment: usize) -> Result<()> {
        let bytes = Self::segment_bytes(segment);
        let home = home_of(self)?;
        // Its buckets are filled as they come into use ([`Bucket::empty`]).
        let address = tx.alloc_table(home, bytes, align_of::<Bucket<K, V>>())?;
        // What comes into the block without a record must not be lost to the free list, which its first word links, if this fails.
        tx.record_range(address, 8)?;
        tx.settle()?;
        let place = &self.segments[segment];
        let pointer =
            crate::translate::persistent(Window::around(core::ptr::from_ref(place).addr())?, address)?;
        tx.put_value(core::ptr::from_ref(place).addr(), &pointer.0)
    }
}
