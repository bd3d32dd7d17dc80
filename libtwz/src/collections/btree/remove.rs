//! Taking entries out of the map, and all of it.

use super::node::{Child, Inner, Leaf, USED, child_as, free_once};
use super::{BTreeMap, DEPTH_MAX, Path};
use crate::collections::damaged;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::Tx;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> BTreeMap<K, V> {
    changes! {
        /// Takes `key` out; returns its value.
        remove / remove_in => do_remove(key: &K) -> Option<V>;
        /// Takes everything out and gives all memory back.
        clear / clear_in => do_clear() -> ();
    }

    pub(in crate::collections) fn do_remove(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        let Some(leaf) = self.descend(Some(key), |_, _| {})? else { return Ok(None) };
        let Some(entry) = leaf.find(key) else { return Ok(None) };
        let value = leaf.values[entry].get();
        let left = leaf.used.get() & !(1 << entry);
        if left & USED == 0 && self.levels.get() > 0 {
            self.drop_leaf(tx, key, leaf)?;
        } else {
            tx.put(&leaf.used, left)?;
        }
        tx.put(&self.count, self.len().saturating_sub(1))?;
        Ok(Some(value))
    }

    /// Takes the leaf where `key` belongs out of the tree and gives it back, with all inner nodes that lead to nothing else. Who reads
    /// meanwhile may be in it still: what it leads to stays, and what becomes of it later are bits to check, as any.
    #[cold]
    fn drop_leaf(&self, tx: &Tx, key: &K, leaf: &Leaf<K, V>) -> Result<()> {
        let mut path: Path<'_, K> = Vec::new();
        self.descend(Some(key), |node, child| path.push((node, child)))?;
        if let Some(before) = Self::leaf_before(&path)? {
            if !before.next.get()?.is_some_and(|next| core::ptr::eq(next, leaf)) {
                return Err(damaged(before, "a leaf that leads to the next one"));
            }
            tx.put_ptr(&before.next, leaf.next.get()?)?;
        }
        // SAFETY: allocated by an insert; its parent, or its parent's, and the leaf before it forget it in the same transaction.
        unsafe { tx.free(leaf) }?;
        while let Some((node, child)) = path.pop() {
            let count = node.len()?;
            if count > 1 && (count > 2 || !path.is_empty()) {
                return node.remove(tx, count, child);
            }
            if count == 2 {
                self.lower(tx, &node.children[1 - child.min(1)])?;
            }
            // SAFETY: as the leaf; of what it led to, one child is given back already, and the other is the root now.
            unsafe { tx.free(node) }?;
            if count == 2 {
                return Ok(());
            }
        }
        // Nothing is left of it.
        tx.put_ptr(&self.root, None)?;
        tx.put(&self.levels, 0)
    }

    /// The only other child of the root takes its place.
    fn lower(&self, tx: &Tx, child: &InvPtr<Child>) -> Result<()> {
        let levels = self.levels.get();
        if levels == 1 {
            tx.put_ptr(&self.leaf, Some(child_as::<Leaf<K, V>>(child)?))?;
            tx.put_ptr(&self.root, None)?;
        } else {
            tx.put_ptr(&self.root, Some(child_as::<Inner<K>>(child)?))?;
        }
        tx.put(&self.levels, levels - 1)
    }

    /// The leaf before the one at the end of `path`; `None` for the first.
    fn leaf_before<'a>(path: &Path<'a, K>) -> Result<Option<&'a Leaf<K, V>>> {
        let Some(turn) = path.iter().rposition(|(_, child)| *child > 0) else { return Ok(None) };
        let (mut node, mut child) = path[turn];
        child -= 1;
        for _ in turn + 1..path.len() {
            node = child_as::<Inner<K>>(&node.children[child])?;
            child = node.len()? - 1;
        }
        child_as(&node.children[child]).map(Some)
    }

    pub(in crate::collections) fn do_clear(&self, tx: &Tx) -> Result<()> {
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
}
