//! Taking entries out of the map, and all of it.

use super::bucket::{Bucket, Tags};
use super::{CHAIN_MAX, HashMap};
use crate::collections::{collect, damaged, home_of};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;

impl<K: Invariant + Copy, V: Invariant + Copy> HashMap<K, V> {
    changes! {
        /// Takes `key` out; returns its value.
        remove / remove_in => do_remove(key: &K) -> Option<V>;
        /// Takes everything out and gives all memory back.
        clear / clear_in => do_clear() -> ();
        /// Takes everything out, as [`HashMap::clear`], and returns it.
        drain / drain_in => do_drain() -> alloc::vec::Vec<(K, V)>;
    }

    fn do_drain(&self, tx: &Tx) -> Result<alloc::vec::Vec<(K, V)>> {
        let entries = collect(self.iter())?;
        self.do_clear(tx)?;
        Ok(entries)
    }

    pub(in crate::collections) fn do_remove(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        let Some(found) = self.find(key, self.hash(key))? else { return Ok(None) };
        tx.put_halves(&found.bucket.tags, Tags(found.bucket.tags.get()).without(found.entry).0)?;
        tx.put_halves(&self.count, self.count.get().saturating_sub(1))?;
        Ok(Some(found.bucket.entries[found.entry].value.get()))
    }

    pub(in crate::collections) fn do_clear(&self, tx: &Tx) -> Result<()> {
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
}
