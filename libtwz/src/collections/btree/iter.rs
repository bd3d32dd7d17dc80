//! Walking the map in order, from both ends.

use super::node::{Inner, Leaf, child_as};
use super::{BTreeMap, DEPTH_MAX};
use crate::collections::maps::{is_before, is_from};
use crate::collections::{damaged, debug};
use crate::error::Result;
use crate::invariant::Invariant;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Bound, RangeBounds};

/// The entries of a [`BTreeMap`] in a range, in order, from both ends; ends after the first error.
///
/// What was given out shortens the range. So each end ends at the other, and a chain of leaves that turns back shows.
#[derive(Debug)]
pub struct BTreeMapRange<'a, K: Invariant + Copy + Ord, V: Invariant + Copy> {
    of: &'a BTreeMap<K, V>,
    start: Bound<K>,
    end: Bound<K>,
    /// The rest of the leaf at the front, largest first.
    front: Vec<(K, V)>,
    next: Next<&'a Leaf<K, V>>,
    /// The rest of the leaf at the back, smallest first.
    back: Vec<(K, V)>,
    /// All leaves with keys from this one on are done.
    before: Next<K>,
    finished: bool,
}

/// A leaf, and the smallest key that belongs there; `None`: no limit.
type Place<'a, K, V> = (&'a Leaf<K, V>, Option<K>);

/// Where an end goes on.
#[derive(Clone, Copy, Debug)]
enum Next<T> {
    NotBegun,
    At(T),
    Nowhere,
}

impl<T> From<Option<T>> for Next<T> {
    fn from(next: Option<T>) -> Self {
        next.map_or(Self::Nowhere, Self::At)
    }
}

impl<'a, K: Invariant + Copy + Ord, V: Invariant + Copy> BTreeMapRange<'a, K, V> {
    /// The next leaf's entries come to the front; `false` when there is none.
    fn fill_front(&mut self) -> Result<bool> {
        let of = self.of;
        let leaf = match self.next {
            Next::NotBegun => {
                let from = match &self.start {
                    Bound::Included(key) | Bound::Excluded(key) => Some(*key),
                    Bound::Unbounded => None,
                };
                let Some(leaf) = of.descend(from.as_ref(), |_, _| {})? else { return Ok(false) };
                self.front = leaf.sorted();
                // Only in the first leaf keys may lie before the range: another one with such keys is no step forward.
                self.front.retain(|(key, _)| is_from(&self.start, key));
                leaf
            }
            Next::At(leaf) => {
                self.front = leaf.sorted();
                leaf
            }
            Next::Nowhere => return Ok(false),
        };
        self.next = of.next_leaf(leaf)?.into();
        Ok(true)
    }

    /// The leaf before comes to the back; `false` when there is none.
    fn fill_back(&mut self) -> Result<bool> {
        let of = self.of;
        let begins = matches!(self.before, Next::NotBegun);
        let end = match self.before {
            Next::NotBegun => self.end,
            Next::At(key) => Bound::Excluded(key),
            Next::Nowhere => return Ok(false),
        };
        let Some((leaf, lower)) = of.leaf_at_end(&end)? else { return Ok(false) };
        self.back = leaf.sorted();
        self.back.reverse();
        if begins {
            self.back.retain(|(key, _)| is_before(&self.end, key));
        }
        self.before = lower.into();
        Ok(true)
    }

    fn take_front(&mut self) -> Result<Option<(K, V)>> {
        loop {
            let Some((key, value)) = self.front.pop() else {
                if self.fill_front()? {
                    continue;
                }
                return Ok(None);
            };
            if !is_before(&self.end, &key) {
                return Ok(None);
            }
            if !is_from(&self.start, &key) {
                return Err(damaged(self.of, "leaves in order"));
            }
            self.start = Bound::Excluded(key);
            return Ok(Some((key, value)));
        }
    }

    fn take_back(&mut self) -> Result<Option<(K, V)>> {
        loop {
            let Some((key, value)) = self.back.pop() else {
                if self.fill_back()? {
                    continue;
                }
                return Ok(None);
            };
            if !is_from(&self.start, &key) {
                return Ok(None);
            }
            if !is_before(&self.end, &key) {
                return Err(damaged(self.of, "leaves in order"));
            }
            self.end = Bound::Excluded(key);
            return Ok(Some((key, value)));
        }
    }

    fn give(&mut self, entry: Result<Option<(K, V)>>) -> Option<Result<(K, V)>> {
        self.finished = !matches!(entry, Ok(Some(_)));
        entry.transpose()
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> Iterator for BTreeMapRange<'_, K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let entry = self.take_front();
        self.give(entry)
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> DoubleEndedIterator for BTreeMapRange<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let entry = self.take_back();
        self.give(entry)
    }
}

impl<'a, K: Invariant + Copy + Ord, V: Invariant + Copy> IntoIterator for &'a BTreeMap<K, V> {
    type Item = Result<(K, V)>;
    type IntoIter = BTreeMapRange<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Invariant + Copy + Ord + fmt::Debug, V: Invariant + Copy + fmt::Debug> fmt::Debug for BTreeMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug::map(f, self)
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> BTreeMap<K, V> {
    /// All entries in order, from both ends; ends after the first error.
    pub fn iter(&self) -> BTreeMapRange<'_, K, V> {
        self.range(..)
    }

    /// The entries whose keys are in `range`, in order, from both ends; ends after the first error. A range that ends before it begins is
    /// empty.
    pub fn range(&self, range: impl RangeBounds<K>) -> BTreeMapRange<'_, K, V> {
        BTreeMapRange {
            of: self,
            start: range.start_bound().cloned(),
            end: range.end_bound().cloned(),
            front: Vec::new(),
            next: Next::NotBegun,
            back: Vec::new(),
            before: Next::NotBegun,
            finished: false,
        }
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

    /// The leaf for the largest keys of a range with this end, and the smallest key that belongs there, which is in such a range, too.
    fn leaf_at_end(&self, end: &Bound<K>) -> Result<Option<Place<'_, K, V>>> {
        let levels = self.levels.get();
        if levels == 0 {
            return Ok(self.leaf.get()?.map(|leaf| (leaf, None)));
        }
        if levels > DEPTH_MAX {
            return Err(damaged(self, "a tree of possible depth"));
        }
        let mut node = self.root.resolve()?;
        let mut lower = None;
        for _ in 1..levels {
            let child = node.child_before(end, node.len()?);
            lower = child.checked_sub(1).map(|key| node.keys[key].get()).or(lower);
            node = child_as::<Inner<K>>(&node.children[child])?;
        }
        let child = node.child_before(end, node.len()?);
        lower = child.checked_sub(1).map(|key| node.keys[key].get()).or(lower);
        Ok(Some((child_as(&node.children[child])?, lower)))
    }
}
