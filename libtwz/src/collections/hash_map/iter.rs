//! Walking the map.

use super::bucket::{Bucket, ENTRIES, Tags};
use super::{CHAIN_MAX, HashMap};
use crate::collections::{damaged, debug};
use crate::error::Result;
use crate::invariant::Invariant;
use core::fmt;

/// The entries of a [`HashMap`], in no order; ends after the first error.
#[derive(Debug)]
pub struct HashMapIter<'a, K: Invariant + Copy, V: Invariant + Copy> {
    of: &'a HashMap<K, V>,
    /// The next bucket that is no overflow of another.
    number: u64,
    at: Option<&'a Bucket<K, V>>,
    /// The next entry in it.
    entry: usize,
    /// Buckets chained to the first one that were passed.
    passed: usize,
    broken: bool,
}

impl<'a, K: Invariant + Copy, V: Invariant + Copy> HashMapIter<'a, K, V> {
    /// Goes to the next bucket; `None` after the last.
    fn next_bucket(&mut self) -> Result<Option<&'a Bucket<K, V>>> {
        self.entry = 0;
        if let Some(bucket) = self.at
            && let Some(next) = bucket.overflow.get()?
        {
            self.passed += 1;
            if self.passed == CHAIN_MAX {
                return Err(damaged(bucket, "a chain of buckets without a cycle"));
            }
            return Ok(Some(next));
        }
        if self.number >= self.of.buckets.get() {
            return Ok(None);
        }
        (self.number, self.passed) = (self.number + 1, 0);
        self.of.bucket(self.number - 1).map(Some)
    }
}

impl<K: Invariant + Copy, V: Invariant + Copy> Iterator for HashMapIter<'_, K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken {
            return None;
        }
        loop {
            if let Some(bucket) = self.at {
                let tags = Tags(bucket.tags.get());
                while self.entry < ENTRIES {
                    self.entry += 1;
                    if tags.is_used(self.entry - 1) {
                        let entry = &bucket.entries[self.entry - 1];
                        return Some(Ok((entry.key.get(), entry.value.get())));
                    }
                }
            }
            match self.next_bucket() {
                Ok(bucket) => self.at = Some(bucket?),
                Err(error) => {
                    self.broken = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<'a, K: Invariant + Copy, V: Invariant + Copy> IntoIterator for &'a HashMap<K, V> {
    type Item = Result<(K, V)>;
    type IntoIter = HashMapIter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Invariant + Copy + fmt::Debug, V: Invariant + Copy + fmt::Debug> fmt::Debug for HashMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug::map(f, self)
    }
}

impl<K: Invariant + Copy, V: Invariant + Copy> HashMap<K, V> {
    /// All entries, in no order; ends after the first error.
    pub fn iter(&self) -> HashMapIter<'_, K, V> {
        HashMapIter { of: self, number: 0, at: None, entry: 0, passed: 0, broken: false }
    }
}
