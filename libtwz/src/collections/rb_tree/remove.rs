//! Taking entries out of the tree, and all of it.

use super::iter::outermost;
use super::{BLACK, DEPTH_MAX, LEFT, Node, RED, RIGHT, RbTree, Search, side_of};
use crate::collections::damaged;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;

impl<K: Invariant + Copy + Ord, V: Invariant> RbTree<K, V> {
    changes! {
        /// Takes `key` out; what its value owns is not given back. Returns whether it was there.
        remove_key / remove_key_in => do_remove_key(key: &K) -> bool;
        /// Takes everything out and gives the nodes back; what the values own is not.
        clear / clear_in => do_clear() -> ();
    }

    fn do_remove_key(&self, tx: &Tx, key: &K) -> Result<bool> {
        let Search::Found(node) = self.find(key)? else { return Ok(false) };
        self.take_out(tx, node)?;
        Ok(true)
    }

    /// Takes a node out and gives it back. One with two children is replaced by the next one, which has at most one and is taken out of its
    /// own place for that: values keep their places.
    pub(super) fn take_out(&self, tx: &Tx, node: &Node<K, V>) -> Result<()> {
        let mut gone = node;
        if let (Some(_), Some(right)) = (node.children[LEFT].get()?, node.children[RIGHT].get()?) {
            gone = outermost(right, LEFT)?;
        }
        let child = match gone.children[LEFT].get()? {
            Some(left) => Some(left),
            None => gone.children[RIGHT].get()?,
        };
        if gone.colour.get() == BLACK && child.is_none() {
            self.rebalance_before_remove(tx, gone)?;
        }
        let parent = gone.parent.get()?;
        tx.record(self)?;
        tx.set_recorded(&self.count, self.len().saturating_sub(1))?;
        if let Some(child) = child {
            tx.record(child)?;
            tx.point_recorded(&child.parent, parent)?;
            tx.set_recorded(&child.colour, BLACK)?; // an only child is red, or the black heights would differ
        }
        match parent {
            Some(parent) => tx.point(&parent.children[side_of(parent, gone)?], child)?,
            None => tx.point_recorded(&self.root, child)?,
        }
        if !core::ptr::eq(gone, node) {
            self.replace(tx, node, gone)?;
        }
        // SAFETY: allocated by `add`; the links to it are gone with the same transaction.
        unsafe { tx.free(node) }
    }

    /// Puts `new` where `old` is.
    fn replace(&self, tx: &Tx, old: &Node<K, V>, new: &Node<K, V>) -> Result<()> {
        let parent = old.parent.get()?;
        let children = [old.children[LEFT].get()?, old.children[RIGHT].get()?];
        tx.record(new)?;
        tx.record(self)?;
        let place = match parent {
            Some(parent) => &parent.children[side_of(parent, old)?],
            None => &self.root,
        };
        tx.record(place)?;
        for child in children.into_iter().flatten() {
            tx.record(&child.parent)?;
        }
        tx.point_recorded(place, Some(new))?;
        tx.point_recorded(&new.parent, parent)?;
        tx.set_recorded(&new.colour, old.colour.get())?;
        for (side, child) in children.into_iter().enumerate() {
            tx.point_recorded(&new.children[side], child)?;
            if let Some(child) = child {
                tx.point_recorded(&child.parent, Some(new))?;
            }
        }
        Ok(())
    }

    /// Makes the ways through `node` one black node longer, so that it can go.
    fn rebalance_before_remove(&self, tx: &Tx, node: &Node<K, V>) -> Result<()> {
        let mut node = node;
        for _ in 0..DEPTH_MAX {
            let Some(parent) = node.parent.get()? else { return Ok(()) };
            let side = side_of(parent, node)?;
            let mut sibling = parent.children[1 - side].resolve()?;
            tx.record(parent)?;
            tx.record(sibling)?;
            if sibling.colour.get() == RED {
                tx.set_recorded(&sibling.colour, BLACK)?;
                tx.set_recorded(&parent.colour, RED)?;
                self.rotate(tx, parent, side)?;
                sibling = parent.children[1 - side].resolve()?;
                tx.record(sibling)?;
            }
            let (near, far) = (sibling.children[side].get()?, sibling.children[1 - side].get()?);
            let is_red = |node: Option<&Node<K, V>>| node.is_some_and(|node| node.colour.get() == RED);
            if !is_red(near) && !is_red(far) {
                tx.set_recorded(&sibling.colour, RED)?;
                if parent.colour.get() == RED {
                    return tx.set_recorded(&parent.colour, BLACK);
                }
                node = parent;
                continue;
            }
            let top = if is_red(far) {
                sibling
            } else {
                self.rotate(tx, sibling, 1 - side)?;
                near.ok_or_else(|| damaged(sibling, "a red child"))?
            };
            let outer = top.children[1 - side].get()?.unwrap_or(sibling);
            tx.record(top)?;
            tx.record(outer)?;
            tx.set_recorded(&top.colour, parent.colour.get())?;
            tx.set_recorded(&parent.colour, BLACK)?;
            tx.set_recorded(&outer.colour, BLACK)?;
            return self.rotate(tx, parent, side);
        }
        Err(damaged(self, "a tree of possible depth"))
    }

    pub(super) fn do_clear(&self, tx: &Tx) -> Result<()> {
        for node in self.nodes() {
            // SAFETY: allocated by `do_insert`; no node comes twice, and the links to them go in the same transaction.
            unsafe { tx.free(node?) }?;
        }
        tx.record(self)?;
        tx.point_recorded(&self.root, None)?;
        tx.set_recorded(&self.count, 0)
    }
}
