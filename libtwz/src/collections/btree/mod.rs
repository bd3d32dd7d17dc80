//! An ordered map: a B+ tree whose leaves are unsorted inside, so that an insert writes one entry and one word.
//!
//! ```text
//! leaf:  used bits 0–15 | next leaf | 16 keys | 16 values
//! inner: keys in order | count and level | 16 children; child i holds keys < keys[i] (and >= keys[i-1])
//! ```
//! A removed key leaves its place free. A leaf that becomes empty is taken out and given back, with the inner nodes that led to it alone, and so
//! is a root with one child; leaves that are not empty are not merged.
//!
//! Keys and values are `Copy`: leaves are split, and what they hold moves. Keys and values that own
//! memory, or must stay where they are – texts, other collections –, are for [`super::owned::BTreeMap`].

mod iter;
mod node;
mod remove;

pub use self::iter::BTreeMapRange;

use self::node::{Inner, Leaf, WIDTH, as_child, child_as, free_entry};
use super::{damaged, expect_store, home_of, inside};
use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::{Ahead, Tx};
use alloc::vec::Vec;

/// Deeper trees are damaged ones: 8^20 entries are more than there is memory for.
const DEPTH_MAX: u64 = 20;

/// A map ordered by key.
#[derive(Invariant)]
#[repr(C)]
#[invariant(version = 1)]
pub struct BTreeMap<K: Invariant + Copy + Ord, V: Invariant + Copy> {
    count: PCell<u64>,
    /// Levels of inner nodes.
    levels: PCell<u64>,
    /// With no inner nodes, the only leaf.
    leaf: InvPtr<Leaf<K, V>>,
    root: InvPtr<Inner<K>>,
}

/// The way from the root to a leaf: inner nodes and the child taken in each.
type Path<'a, K> = Vec<(&'a Inner<K>, usize)>;

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> Default for BTreeMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> BTreeMap<K, V> {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self { count: PCell::new(0), levels: PCell::new(0), leaf: InvPtr::null(), root: InvPtr::null() }
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

    /// The leaf where `key` belongs (`None`: where the smallest does); calls `step` for each inner node passed.
    #[inline]
    fn descend<'a>(
        &'a self,
        key: Option<&K>,
        mut step: impl FnMut(&'a Inner<K>, usize),
    ) -> Result<Option<&'a Leaf<K, V>>> {
        let levels = self.levels.get();
        if levels == 0 {
            return self.leaf.get();
        }
        if levels > DEPTH_MAX {
            return Err(damaged(self, "a tree of possible depth"));
        }
        let mut node = self.root.resolve()?;
        for level in (0..levels).rev() {
            let count = node.len()?;
            let child = key.map_or(0, |key| node.child_for(key, count));
            step(node, child);
            let pointer = &node.children[child];
            if level == 0 {
                return child_as::<Leaf<K, V>>(pointer).map(Some);
            }
            node = child_as::<Inner<K>>(pointer)?;
        }
        Ok(None)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
    #[inline]
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        let Some(leaf) = self.descend(Some(key), |_, _| {})? else { return Ok(None) };
        Ok(leaf.find(key).map(|entry| leaf.values[entry].get()))
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// As [`BTreeMap::get`].
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    map_methods!(DoubleEndedIterator);
    ordered_map_methods!();

    /// Gives `key` a value, durably; returns the one before.
    ///
    /// # Errors
    /// As [`BTreeMap::get`]; [`crate::Error::OutOfSpace`], [`crate::Error::Busy`].
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        // Found before the lock is taken, and fetched meanwhile: that takes as long as the last transaction's fence.
        let ahead = Ahead::of(home_of(self)?);
        let found = self.descend(Some(&key), |_, _| {}).ok().flatten();
        if let Some(leaf) = found {
            expect_store(leaf);
        }
        ahead.run(|tx, is_as_found| match found {
            Some(leaf) if is_as_found => self.insert_into(tx, leaf, key, value),
            _ => self.do_insert(tx, key, value),
        })
    }

    /// Gives `key` a value as a part of `tx`.
    ///
    /// # Errors
    /// As [`BTreeMap::insert`].
    pub fn insert_in(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        inside(tx, |tx| self.do_insert(tx, key, value))
    }

    /// An insert as a step of a change.
    pub(super) fn put_entry_in(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        self.do_insert(tx, key, value)
    }

    fn do_insert(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        let leaf = match self.descend(Some(&key), |_, _| {})? {
            Some(leaf) => leaf,
            None => {
                let leaf = tx.alloc_put(home_of(self)?, Leaf::blank(key, value))?;
                tx.put_ptr(&self.leaf, Some(leaf))?;
                tx.apply()?;
                leaf
            }
        };
        self.insert_into(tx, leaf, key, value)
    }

    /// Inserts into the leaf where `key` belongs.
    fn insert_into(&self, tx: &Tx, leaf: &Leaf<K, V>, key: K, value: V) -> Result<Option<V>> {
        if let Some(entry) = leaf.find(&key) {
            let before = leaf.values[entry].get();
            tx.put(&leaf.values[entry], value)?;
            return Ok(Some(before));
        }
        let used = leaf.used.get();
        let (leaf, used) =
            if free_entry(used).is_some() { (leaf, used) } else { self.split_leaf(tx, leaf, &key)? };
        let entry = free_entry(used).ok_or_else(|| damaged(leaf, "a leaf with room after a split"))?;
        tx.puts(|puts| {
            puts.cell(&leaf.keys[entry], key)?;
            puts.cell(&leaf.values[entry], value)?;
            puts.cell(&leaf.used, used | 1 << entry)?;
            puts.halves(&self.count, self.len().wrapping_add(1))
        })?;
        Ok(None)
    }

    /// Moves the upper half of a full leaf to a new one; returns the one where `key` belongs, and which of its entries will be used.
    #[cold]
    fn split_leaf<'a>(&'a self, tx: &Tx, leaf: &'a Leaf<K, V>, key: &K) -> Result<(&'a Leaf<K, V>, u64)> {
        let mut order: Vec<(K, usize)> = (0..WIDTH).map(|entry| (leaf.keys[entry].get(), entry)).collect();
        order.sort_unstable_by_key(|(key, _)| *key);
        let (separator, _) = order[WIDTH / 2];
        let mut left = 0;
        for (_, entry) in &order[..WIDTH / 2] {
            left |= 1 << entry;
        }
        // Only what is used of the new leaf goes to the log.
        let bytes = (size_of::<Leaf<K, V>>(), align_of::<Leaf<K, V>>());
        let upper = tx.alloc_unfilled(home_of(leaf)?, bytes.0, bytes.1)?;
        let upper: &Leaf<K, V> = crate::ptr::at_address(upper)?;
        let keys: [K; WIDTH / 2] = core::array::from_fn(|i| order[WIDTH / 2 + i].0);
        let values: [V; WIDTH / 2] = core::array::from_fn(|i| leaf.values[order[WIDTH / 2 + i].1].get());
        tx.put_value(core::ptr::from_ref(&upper.keys).addr(), &keys)?;
        tx.put_value(core::ptr::from_ref(&upper.values).addr(), &values)?;
        let right = (1 << (WIDTH / 2)) - 1;
        tx.put(&upper.used, right)?;
        tx.put_ptr(&upper.next, leaf.next.get()?)?;
        tx.put_ptr(&leaf.next, Some(upper))?;
        tx.put(&leaf.used, left)?;
        self.add_child(tx, key, leaf, upper, separator)?;
        Ok(if *key < separator { (leaf, left) } else { (upper, right) })
    }

    /// Puts a new leaf right of `leaf` into the inner nodes, splitting those that are full.
    fn add_child(&self, tx: &Tx, key: &K, leaf: &Leaf<K, V>, upper: &Leaf<K, V>, separator: K) -> Result<()> {
        let mut path: Path<'_, K> = Vec::new();
        self.descend(Some(key), |node, child| path.push((node, child)))?;
        let (mut separator, mut right) = (separator, as_child(upper));
        let mut left = as_child(leaf);
        while let Some((node, child)) = path.pop() {
            let count = node.len()?;
            if count < WIDTH {
                return node.insert(tx, count, child, separator, right);
            }
            tx.apply()?; // the split copies pointers as they stand
            let (middle, upper) = self.split_inner(tx, node)?;
            let half = WIDTH / 2;
            if child < half {
                node.insert(tx, half, child, separator, right)?;
            } else {
                upper.insert(tx, half, child - half, separator, right)?;
            }
            tx.apply()?;
            (separator, left, right) = (middle, as_child(node), as_child(upper));
        }
        // The root itself was split, or there was none.
        let root = tx.alloc_put(home_of(self)?, Inner::blank(separator))?;
        tx.put_ptr(&root.children[0], Some(left))?;
        tx.put_ptr(&root.children[1], Some(right))?;
        tx.put(&root.count, 2)?;
        tx.put_ptr(&self.root, Some(root))?;
        if self.levels.get() == 0 {
            tx.put_ptr(&self.leaf, None)?;
        }
        tx.put(&self.levels, self.levels.get() + 1)
    }

    /// Moves the upper half of a full inner node to a new one; returns the key between them.
    fn split_inner<'a>(&self, tx: &Tx, node: &'a Inner<K>) -> Result<(K, &'a Inner<K>)> {
        let half = WIDTH / 2;
        let middle = node.keys[half - 1].get();
        let upper = tx.alloc_put(home_of(node)?, Inner::blank(middle))?;
        for i in half..WIDTH {
            tx.put_ptr(&upper.children[i - half], node.children[i].get()?)?;
            if i + 1 < WIDTH {
                tx.put(&upper.keys[i - half], node.keys[i].get())?;
            }
        }
        tx.put(&upper.count, half as u64)?;
        tx.put(&node.count, half as u64)?;
        tx.apply()?;
        Ok((middle, upper))
    }
}
