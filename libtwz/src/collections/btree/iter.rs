//! Walking the map in order.

use super::BTreeMap;
use super::node::Leaf;
use crate::collections::damaged;
use crate::error::Result;
use crate::invariant::Invariant;
use alloc::vec::Vec;
use core::ops::{Bound, RangeBounds};

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> BTreeMap<K, V> {
    /// The entry with the smallest key.
    ///
    /// # Errors
    /// As [`BTreeMap::get`].
    pub fn first_key_value(&self) -> Result<Option<(K, V)>> {
        self.iter().next().transpose()
    }

    /// All entries in order; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<(K, V)>> {
        self.range(..)
    }

    /// The entries whose keys are in `range`, in order; ends after the first error.
    pub fn range(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = Result<(K, V)>> {
        let start = range.start_bound().cloned();
        let end = range.end_bound().cloned();
        let from = match &start {
            Bound::Included(key) | Bound::Excluded(key) => Some(*key),
            Bound::Unbounded => None,
        };
        let mut next = Some(self.descend(from.as_ref(), |_, _| {}));
        let mut batch: Vec<(K, V)> = Vec::new();
        let mut first = true;
        let mut last: Option<K> = None;
        core::iter::from_fn(move || {
            loop {
                if let Some((key, value)) = batch.pop() {
                    let past = match &end {
                        Bound::Included(end) => key > *end,
                        Bound::Excluded(end) => key >= *end,
                        Bound::Unbounded => false,
                    };
                    if past {
                        next = None;
                        batch.clear();
                        return None;
                    }
                    // Keys ascend from leaf to leaf: a chain that turns back is damaged (and would never end).
                    if last.is_some_and(|last| key <= last) || !is_from(&start, &key) {
                        next = None;
                        batch.clear();
                        return Some(Err(damaged(self, "leaves in order")));
                    }
                    last = Some(key);
                    return Some(Ok((key, value)));
                }
                let leaf = match next.take()? {
                    Ok(leaf) => leaf?,
                    Err(error) => return Some(Err(error)),
                };
                batch = leaf.sorted();
                // Only in the first leaf keys may lie before the range: another one with such keys is no step forward.
                if core::mem::take(&mut first) {
                    batch.retain(|(key, _)| is_from(&start, key));
                }
                next = Some(self.next_leaf(leaf));
            }
        })
    }

    /// The next leaf that is not empty.
    fn next_leaf<'a>(&'a self, leaf: &'a Leaf<K, V>) -> Result<Option<&'a Leaf<K, V>>> {
        let mut at = leaf;
        for _ in 0..=twz_abi::object::MAX_SIZE / 64 {
            match at.next.get()? {
                Some(next) if next.used.get() == 0 => at = next,
                other => return Ok(other),
            }
        }
        Err(damaged(leaf, "a chain of leaves without a cycle"))
    }
}

/// Whether `key` lies in a range that begins with `start`.
fn is_from<K: Ord>(start: &Bound<K>, key: &K) -> bool {
    match start {
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
        Bound::Unbounded => true,
    }
}
