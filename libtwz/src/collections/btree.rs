//! An ordered map: a B+ tree whose leaves are unsorted inside, so that an insert writes one entry and one word.
//!
//! ```text
//! leaf:  used bits 0–15 | next leaf | 16 keys | 16 values
//! inner: keys in order | count and level | 16 children; child i holds keys < keys[i] (and >= keys[i-1])
//! ```
//! A removed key leaves its place free; leaves are not merged, and an empty one is filled again by later keys of its range.

use super::{alone, damaged, expect_store, home_of, inside};
use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::{self, Tx};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::{Bound, RangeBounds};

/// Entries of a leaf, and children of an inner node.
const WIDTH: usize = 16;
/// Deeper trees are damaged ones: 8^20 entries are more than there is memory for.
const DEPTH_MAX: u64 = 20;

/// A map ordered by key.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct BTreeMap<K: Invariant + Copy + Ord, V: Invariant + Copy> {
    count: PCell<u64>,
    /// Levels of inner nodes.
    levels: PCell<u64>,
    /// With no inner nodes, the only leaf.
    leaf: InvPtr<Leaf<K, V>>,
    root: InvPtr<Inner<K>>,
}

#[derive(Debug, Invariant)]
#[repr(C)]
struct Leaf<K: Invariant + Copy + Ord, V: Invariant + Copy> {
    used: PCell<u64>,
    next: InvPtr<Leaf<K, V>>,
    keys: [PCell<K>; WIDTH],
    values: [PCell<V>; WIDTH],
}

#[derive(Debug, Invariant)]
#[repr(C)]
struct Inner<K: Invariant + Copy + Ord> {
    /// Number of children, at least 1; keys are one fewer.
    count: PCell<u64>,
    reserved: PCell<u64>,
    keys: [PCell<K>; WIDTH],
    /// Leaves or inner nodes, by level: their first words tell nothing, so the level is counted from the root.
    children: [InvPtr<Child>; WIDTH],
}

/// A node of either kind; sixteen bytes that both have.
#[derive(Debug, Invariant)]
#[repr(C)]
struct Child {
    words: [PCell<u64>; 2],
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

    /// Gives `key` a value, durably; returns the one before.
    ///
    /// # Errors
    /// As [`BTreeMap::get`]; [`crate::Error::OutOfSpace`], [`crate::Error::Busy`].
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        // Found before the lock is taken, and fetched meanwhile: that takes as long as the last transaction's fence.
        let state = tx::State::of(home_of(self)?);
        let found = self.descend(Some(&key), |_, _| {}).ok().flatten();
        if let Some(leaf) = found {
            expect_store(leaf);
        }
        alone(self, |tx| {
            let leaf = if state.is_some() && state == tx.state() { found } else { None };
            match leaf {
                Some(leaf) => self.insert_into(tx, leaf, key, value),
                None => self.do_insert(tx, key, value),
            }
        })
    }

    /// Gives `key` a value as a part of `tx`.
    ///
    /// # Errors
    /// As [`BTreeMap::insert`].
    pub fn insert_in(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        inside(tx, |tx| self.do_insert(tx, key, value))
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
        tx.put(&leaf.keys[entry], key)?;
        tx.put(&leaf.values[entry], value)?;
        tx.put(&leaf.used, used | 1 << entry)?;
        tx.put(&self.count, self.len().wrapping_add(1))?;
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

    /// Takes `key` out, durably; returns its value.
    ///
    /// # Errors
    /// As [`BTreeMap::get`]; [`crate::Error::Busy`].
    pub fn remove(&self, key: &K) -> Result<Option<V>> {
        alone(self, |tx| self.do_remove(tx, key))
    }

    /// Takes `key` out as a part of `tx`.
    ///
    /// # Errors
    /// As [`BTreeMap::remove`].
    pub fn remove_in(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        inside(tx, |tx| self.do_remove(tx, key))
    }

    fn do_remove(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        let Some(leaf) = self.descend(Some(key), |_, _| {})? else { return Ok(None) };
        let Some(entry) = leaf.find(key) else { return Ok(None) };
        tx.put(&leaf.used, leaf.used.get() & !(1 << entry))?;
        tx.put(&self.count, self.len().saturating_sub(1))?;
        Ok(Some(leaf.values[entry].get()))
    }

    /// Takes everything out and gives all memory back, durably, all or nothing.
    ///
    /// # Errors
    /// As [`BTreeMap::remove`].
    pub fn clear(&self) -> Result<()> {
        alone(self, |tx| self.do_clear(tx))
    }

    /// Takes everything out as a part of `tx`.
    ///
    /// # Errors
    /// As [`BTreeMap::clear`].
    pub fn clear_in(&self, tx: &Tx) -> Result<()> {
        inside(tx, |tx| self.do_clear(tx))
    }

    fn do_clear(&self, tx: &Tx) -> Result<()> {
        let levels = self.levels.get();
        if levels > DEPTH_MAX {
            return Err(damaged(self, "a tree of possible depth"));
        }
        let mut seen = BTreeSet::new();
        if levels > 0 {
            Self::free_below(tx, self.root.resolve()?, levels, &mut seen)?;
        } else if let Some(leaf) = self.leaf.get()? {
            free_once(tx, leaf, &mut seen)?;
        }
        tx.put_ptr(&self.root, None)?;
        tx.put_ptr(&self.leaf, None)?;
        tx.put(&self.levels, 0)?;
        tx.put(&self.count, 0)
    }

    /// Gives back `node`, which is `levels` above the leaves, and all below it.
    fn free_below(tx: &Tx, node: &Inner<K>, levels: u64, seen: &mut BTreeSet<usize>) -> Result<()> {
        free_once(tx, node, seen)?;
        for child in &node.children[..node.len()?] {
            if levels == 1 {
                free_once(tx, child_as::<Leaf<K, V>>(child)?, seen)?;
            } else {
                Self::free_below(tx, child_as::<Inner<K>>(child)?, levels - 1, seen)?;
            }
        }
        Ok(())
    }

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

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> Leaf<K, V> {
    /// An empty leaf; its places hold copies of an entry.
    fn blank(key: K, value: V) -> Self {
        Self {
            used: PCell::new(0),
            next: InvPtr::null(),
            keys: core::array::from_fn(|_| PCell::new(key)),
            values: core::array::from_fn(|_| PCell::new(value)),
        }
    }

    #[inline]
    fn find(&self, key: &K) -> Option<usize> {
        // All of them: where a search stops cannot be foretold, and a wrong guess costs more than sixteen compares.
        let found = bits(&self.keys, |other| other == *key) & self.used.get();
        (found != 0).then(|| found.trailing_zeros() as usize)
    }

    /// The entries, largest first.
    fn sorted(&self) -> Vec<(K, V)> {
        let used = self.used.get();
        let mut entries: Vec<(K, V)> = (0..WIDTH)
            .filter(|entry| used >> entry & 1 != 0)
            .map(|entry| (self.keys[entry].get(), self.values[entry].get()))
            .collect();
        entries.sort_unstable_by_key(|entry| core::cmp::Reverse(entry.0));
        entries
    }
}

impl<K: Invariant + Copy + Ord> Inner<K> {
    fn blank(key: K) -> Self {
        Self {
            count: PCell::new(0),
            reserved: PCell::new(0),
            keys: core::array::from_fn(|_| PCell::new(key)),
            children: [const { InvPtr::null() }; WIDTH],
        }
    }

    fn len(&self) -> Result<usize> {
        let count = usize::try_from(self.count.get()).unwrap_or(usize::MAX);
        if (1..=WIDTH).contains(&count) { Ok(count) } else { Err(damaged(&self.count, "1 to 16 children")) }
    }

    #[inline]
    fn child_for(&self, key: &K, count: usize) -> usize {
        // Not searched: see `Leaf::find`. Keys past the last are anything.
        let passed = bits(&self.keys, |other| *key >= other).trailing_ones() as usize;
        passed.min(count - 1)
    }

    /// Puts `right` after child `at`, with `separator` between the two.
    fn insert(&self, tx: &Tx, count: usize, at: usize, separator: K, right: &Child) -> Result<()> {
        // Moved in one piece each: a pointer means the same anywhere in its object.
        let mut keys: [K; WIDTH] = core::array::from_fn(|i| self.keys[i].get());
        let mut children: [u64; WIDTH] = core::array::from_fn(|i| self.children[i].raw().0);
        keys.copy_within(at..count - 1, at + 1);
        children.copy_within(at + 1..count, at + 2);
        keys[at] = separator;
        tx.put_slice(core::ptr::from_ref(&self.keys[at]).addr(), &keys[at..count])?;
        tx.put_slice(core::ptr::from_ref(&self.children[at + 1]).addr(), &children[at + 1..=count])?;
        tx.put_ptr(&self.children[at + 1], Some(right))?;
        tx.put(&self.count, count as u64 + 1)
    }
}

/// A place in a leaf whose used ones are these.
fn free_entry(used: u64) -> Option<usize> {
    let free = (!used).trailing_zeros() as usize;
    (free < WIDTH).then_some(free)
}

/// Bit i says whether `is` holds for key i. Two or three instructions a key, and no branch.
#[inline(always)]
fn bits<K: Invariant + Copy>(keys: &[PCell<K>; WIDTH], is: impl Fn(K) -> bool) -> u64 {
    keys.iter().rev().fold(0, |bits, key| bits << 1 | u64::from(is(key.get())))
}

/// Gives a node back that this transaction has not given back yet.
fn free_once<T: Invariant>(tx: &Tx, node: &T, seen: &mut BTreeSet<usize>) -> Result<()> {
    if !seen.insert(core::ptr::from_ref(node).addr()) {
        return Err(damaged(node, "a tree whose nodes have one parent each"));
    }
    // SAFETY: a node of the tree, allocated by it and given back once; the links to it go in the same transaction.
    unsafe { tx.free(node) }
}

/// Whether `key` lies in a range that begins with `start`.
fn is_from<K: Ord>(start: &Bound<K>, key: &K) -> bool {
    match start {
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
        Bound::Unbounded => true,
    }
}

/// A node as a child: both kinds begin with two words.
fn as_child<T: Invariant>(node: &T) -> &Child {
    const { assert!(size_of::<Child>() <= size_of::<T>() && align_of::<Child>() <= align_of::<T>()) };
    // SAFETY: a Child is the first 16 bytes of either kind of node, as words that change atomically; see the assertion.
    unsafe { &*core::ptr::from_ref(node).cast::<Child>() }
}

/// A child as the kind of node that its level says; bounds and alignment are checked again for that type.
#[inline(always)]
fn child_as<T: Invariant>(pointer: &InvPtr<Child>) -> Result<&T> {
    crate::ptr::at(home_of(pointer)?, pointer.raw())
}
