//! Walking the tree in order, from both ends.

use super::{DEPTH_MAX, LEFT, Node, RIGHT, RbTree, side_of};
use crate::cell::PCell;
use crate::collections::damaged;
use crate::collections::debug::{self, InCell};
use crate::collections::maps::{is_before, is_from};
use crate::error::Result;
use crate::invariant::Invariant;
use core::fmt;
use core::ops::{Bound, RangeBounds};

/// The entries of a [`RbTree`] in a range, in order, from both ends; ends after the first error.
pub struct RbTreeRange<'a, K: Invariant + Copy + Ord, V: Invariant>(Nodes<'a, K, V>);

impl<K: Invariant + Copy + Ord, V: Invariant> fmt::Debug for RbTreeRange<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RbTreeRange(at most {} left)", self.0.left)
    }
}

/// The nodes of a range. What was given out shortens it: so each end ends at the other, and no node comes twice, whatever the count says.
pub(super) struct Nodes<'a, K: Invariant + Copy + Ord, V: Invariant> {
    of: &'a RbTree<K, V>,
    start: Bound<K>,
    end: Bound<K>,
    /// The nodes last given out from the left and from the right.
    last: [Option<&'a Node<K, V>>; 2],
    left: u64,
    finished: bool,
}

impl<'a, K: Invariant + Copy + Ord, V: Invariant> Nodes<'a, K, V> {
    /// The next node from a side.
    fn take(&mut self, side: usize) -> Result<Option<&'a Node<K, V>>> {
        let node = match self.last[side] {
            Some(last) => neighbour(last, 1 - side)?,
            None => self.first(side)?,
        };
        let Some(node) = node else { return Ok(None) };
        let key = node.key.get();
        let (from, before) = (is_from(&self.start, &key), is_before(&self.end, &key));
        let (advanced, inside) = if side == LEFT { (from, before) } else { (before, from) };
        if !inside {
            return Ok(None);
        }
        if !advanced || self.left == 0 {
            return Err(damaged(node, "a tree in order, without a cycle"));
        }
        self.left -= 1;
        self.last[side] = Some(node);
        let edge = if side == LEFT { &mut self.start } else { &mut self.end };
        *edge = Bound::Excluded(key);
        Ok(Some(node))
    }

    /// The outermost node of the range on a side.
    fn first(&self, side: usize) -> Result<Option<&'a Node<K, V>>> {
        let Some(mut node) = self.of.root.get()? else { return Ok(None) };
        let mut found = None;
        for _ in 0..DEPTH_MAX {
            let key = node.key.get();
            let inside = if side == LEFT { is_from(&self.start, &key) } else { is_before(&self.end, &key) };
            if inside {
                found = Some(node);
            }
            match node.children[if inside { side } else { 1 - side }].get()? {
                Some(child) => node = child,
                None => return Ok(found),
            }
        }
        Err(damaged(node, "a tree of possible depth"))
    }

    fn give(&mut self, side: usize) -> Option<Result<&'a Node<K, V>>> {
        if self.finished {
            return None;
        }
        let node = self.take(side);
        self.finished = !matches!(node, Ok(Some(_)));
        node.transpose()
    }
}

impl<'a, K: Invariant + Copy + Ord, V: Invariant> Iterator for Nodes<'a, K, V> {
    type Item = Result<&'a Node<K, V>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.give(LEFT)
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant> DoubleEndedIterator for Nodes<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.give(RIGHT)
    }
}

impl<K: Invariant + Copy + Ord + fmt::Debug, V: Invariant + fmt::Debug> fmt::Debug for RbTree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug::map(f, self.nodes().map(|node| node.map(|node| (node.key.get(), InCell(&node.value)))))
    }
}

fn entry<K: Invariant + Copy + Ord, V: Invariant + Copy>(node: Result<&Node<K, V>>) -> Result<(K, V)> {
    node.map(|node| (node.key.get(), node.value.get()))
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> Iterator for RbTreeRange<'_, K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.give(LEFT).map(entry)
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> DoubleEndedIterator for RbTreeRange<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.give(RIGHT).map(entry)
    }
}

impl<'a, K: Invariant + Copy + Ord, V: Invariant + Copy> IntoIterator for &'a RbTree<K, V> {
    type Item = Result<(K, V)>;
    type IntoIter = RbTreeRange<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> RbTree<K, V> {
    /// All entries in order, from both ends; ends after the first error.
    pub fn iter(&self) -> RbTreeRange<'_, K, V> {
        self.range(..)
    }

    /// The entries whose keys are in `range`, in order, from both ends; ends after the first error. A range that ends before it begins is
    /// empty.
    pub fn range(&self, range: impl RangeBounds<K>) -> RbTreeRange<'_, K, V> {
        RbTreeRange(self.nodes_in(range))
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant> RbTree<K, V> {
    /// Keys and values in place ([`RbTree::get_ref`]), in order, from both ends; ends after the first error.
    pub fn iter_ref(&self) -> impl DoubleEndedIterator<Item = Result<(K, &V)>> {
        self.range_ref(..)
    }

    /// Those whose keys are in `range`, as [`RbTree::iter_ref`].
    pub fn range_ref(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = Result<(K, &V)>> {
        self.nodes_in(range).map(|node| node.map(|node| (node.key.get(), node.value.as_ref())))
    }

    /// The cells of the values, in order; ends after the first error.
    pub(in crate::collections) fn cells(&self) -> impl Iterator<Item = Result<&PCell<V>>> {
        self.nodes().map(|node| node.map(|node| &node.value))
    }

    /// All nodes in order.
    pub(super) fn nodes(&self) -> Nodes<'_, K, V> {
        self.nodes_in(..)
    }

    fn nodes_in(&self, range: impl RangeBounds<K>) -> Nodes<'_, K, V> {
        let (start, end) = (range.start_bound().cloned(), range.end_bound().cloned());
        Nodes { of: self, start, end, last: [None; 2], left: self.len(), finished: false }
    }
}

/// The last node below `node` on a side.
pub(super) fn outermost<K: Invariant + Copy + Ord, V: Invariant>(
    node: &Node<K, V>,
    side: usize,
) -> Result<&Node<K, V>> {
    let mut node = node;
    for _ in 0..DEPTH_MAX {
        match node.children[side].get()? {
            Some(child) => node = child,
            None => return Ok(node),
        }
    }
    Err(damaged(node, "a tree of possible depth"))
}

/// The next node in order, to a side.
fn neighbour<K: Invariant + Copy + Ord, V: Invariant>(
    node: &Node<K, V>,
    side: usize,
) -> Result<Option<&Node<K, V>>> {
    if let Some(child) = node.children[side].get()? {
        return outermost(child, 1 - side).map(Some);
    }
    let mut node = node;
    for _ in 0..DEPTH_MAX {
        let Some(parent) = node.parent.get()? else { return Ok(None) };
        if side_of(parent, node)? != side {
            return Ok(Some(parent));
        }
        node = parent;
    }
    Err(damaged(node, "a tree of possible depth"))
}
