//! The nodes of the tree.

use crate::cell::PCell;
use crate::collections::maps::is_before;
use crate::collections::{damaged, home_of, put_all};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::Tx;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::Bound;

/// Entries of a leaf, and children of an inner node.
pub(super) const WIDTH: usize = 16;
/// The bits of `used` that say something.
pub(super) const USED: u64 = (1 << WIDTH) - 1;

#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Leaf<K: Invariant + Copy + Ord, V: Invariant + Copy> {
    pub(super) used: PCell<u64>,
    pub(super) next: InvPtr<Leaf<K, V>>,
    pub(super) keys: [PCell<K>; WIDTH],
    pub(super) values: [PCell<V>; WIDTH],
}

#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Inner<K: Invariant + Copy + Ord> {
    /// Number of children, at least 1; keys are one fewer.
    pub(super) count: PCell<u64>,
    reserved: PCell<u64>,
    pub(super) keys: [PCell<K>; WIDTH],
    /// Leaves or inner nodes, by level: their first words tell nothing, so the level is counted from the root.
    pub(super) children: [InvPtr<Child>; WIDTH],
}

/// A node of either kind; sixteen bytes that both have.
#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Child {
    words: [PCell<u64>; 2],
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> Leaf<K, V> {
    /// An empty leaf; its places hold copies of an entry.
    pub(super) fn blank(key: K, value: V) -> Self {
        Self {
            used: PCell::new(0),
            next: InvPtr::null(),
            keys: core::array::from_fn(|_| PCell::new(key)),
            values: core::array::from_fn(|_| PCell::new(value)),
        }
    }

    #[inline]
    pub(super) fn find(&self, key: &K) -> Option<usize> {
        // All of them: where a search stops cannot be foretold, and a wrong guess costs more than sixteen compares.
        let found = bits(&self.keys, |other| other == *key) & self.used.get();
        (found != 0).then(|| found.trailing_zeros() as usize)
    }

    /// The entries, largest first.
    pub(super) fn sorted(&self) -> Vec<(K, V)> {
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
    pub(super) fn blank(key: K) -> Self {
        Self {
            count: PCell::new(0),
            reserved: PCell::new(0),
            keys: core::array::from_fn(|_| PCell::new(key)),
            children: [const { InvPtr::null() }; WIDTH],
        }
    }

    pub(super) fn len(&self) -> Result<usize> {
        let count = usize::try_from(self.count.get()).unwrap_or(usize::MAX);
        if (1..=WIDTH).contains(&count) { Ok(count) } else { Err(damaged(&self.count, "1 to 16 children")) }
    }

    #[inline]
    pub(super) fn child_for(&self, key: &K, count: usize) -> usize {
        // Not searched: see `Leaf::find`. Keys past the last are anything.
        let passed = bits(&self.keys, |other| *key >= other).trailing_ones() as usize;
        passed.min(count - 1)
    }

    /// The child whose leaves hold the largest keys of a range with this end.
    pub(super) fn child_before(&self, end: &Bound<K>, count: usize) -> usize {
        let passed = bits(&self.keys, |other| is_before(end, &other)).trailing_ones() as usize;
        passed.min(count - 1)
    }

    /// Takes child `at` out: the one before it takes its keys over, or else the one behind it.
    pub(super) fn remove(&self, tx: &Tx, count: usize, at: usize) -> Result<()> {
        if at >= count {
            return Err(damaged(&self.count, "as many children as a moment ago"));
        }
        let keys: [K; WIDTH] = core::array::from_fn(|i| self.keys[i].get());
        let children: [u64; WIDTH] = core::array::from_fn(|i| self.children[i].raw().0);
        let key = at.saturating_sub(1);
        put_all(tx, core::ptr::from_ref(&self.keys[key]).addr(), &keys[key + 1..count.max(key + 1)])?;
        put_all(tx, core::ptr::from_ref(&self.children[at]).addr(), &children[at + 1..count])?;
        tx.put(&self.count, count as u64 - 1)
    }

    /// Puts `right` after child `at`, with `separator` between the two. `at` was found when the node was last read: one that lies in
    /// another node, or that somebody changes meanwhile, may have fewer children since.
    pub(super) fn insert(&self, tx: &Tx, count: usize, at: usize, separator: K, right: &Child) -> Result<()> {
        if at >= count {
            return Err(damaged(&self.count, "as many children as a moment ago"));
        }
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
pub(super) fn free_entry(used: u64) -> Option<usize> {
    let free = (!used).trailing_zeros() as usize;
    (free < WIDTH).then_some(free)
}

/// Bit i says whether `is` holds for key i. Two or three instructions a key, and no branch.
#[inline(always)]
pub(super) fn bits<K: Invariant + Copy>(keys: &[PCell<K>; WIDTH], is: impl Fn(K) -> bool) -> u64 {
    keys.iter().rev().fold(0, |bits, key| bits << 1 | u64::from(is(key.get())))
}

/// Gives a node back that this transaction has not given back yet.
pub(super) fn free_once<T: Invariant>(tx: &Tx, node: &T, seen: &mut BTreeSet<usize>) -> Result<()> {
    if !seen.insert(core::ptr::from_ref(node).addr()) {
        return Err(damaged(node, "a tree whose nodes have one parent each"));
    }
    // SAFETY: a node of the tree, allocated by it and given back once; the links to it go in the same transaction.
    unsafe { tx.free(node) }
}

/// A node as a child: both kinds begin with two words.
pub(super) fn as_child<T: Invariant>(node: &T) -> &Child {
    const { assert!(size_of::<Child>() <= size_of::<T>() && align_of::<Child>() <= align_of::<T>()) };
    // SAFETY: a Child is the first 16 bytes of either kind of node, as words that change atomically; see the assertion.
    unsafe { &*core::ptr::from_ref(node).cast::<Child>() }
}

/// A child as the kind of node that its level says; bounds and alignment are checked again for that type.
#[inline(always)]
pub(super) fn child_as<T: Invariant>(pointer: &InvPtr<Child>) -> Result<&T> {
    crate::ptr::at(home_of(pointer)?, pointer.raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::object::ObjectBuilder;
    use crate::tx::Tx;

    #[test]
    fn a_child_that_is_no_more_is_damage() {
        let o = ObjectBuilder::new().build(Inner::<u64>::blank(0)).unwrap();
        let node = o.base();
        for at in [8, 12, WIDTH - 1] {
            let inserted = Tx::run(o.window(), |tx| node.insert(tx, 8, at, 1, as_child(node)));
            assert!(matches!(inserted, Err(Error::Damaged { .. })), "{at}: {inserted:?}");
        }
        Tx::run(o.window(), |tx| node.insert(tx, 8, 7, 1, as_child(node))).unwrap();
        assert_eq!(node.len(), Ok(9));
    }
}
