//! Taking entries out of the map, and all of it.

use super::node::{Inner, Leaf, child_as, free_once};
use super::{BTreeMap, DEPTH_MAX};
use crate::collections::{alone, damaged, inside};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;
use alloc::collections::BTreeSet;

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> BTreeMap<K, V> {
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
}
