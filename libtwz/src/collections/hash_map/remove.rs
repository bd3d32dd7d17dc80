//! Taking entries out of the map, and all of it.

use super::bucket::Bucket;
use super::{CHAIN_MAX, HashMap};
use crate::collections::{alone, damaged, home_of, inside};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;

impl<K: Invariant + Copy, V: Invariant + Copy> HashMap<K, V> {
    /// Takes `key` out, durably; returns its value.
    ///
    /// # Errors
    /// As [`HashMap::get`]; [`crate::Error::Busy`].
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
}
